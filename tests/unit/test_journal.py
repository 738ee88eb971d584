"""The journal of a run: rows that a checkpoint knows, and never too many of them."""

import math
from pathlib import Path
from typing import Any

from pronk_learner import report


def row(seconds: float) -> dict[str, Any]:
    return {"frames": int(seconds), "updates": int(seconds), "seconds": seconds, "lag": None}


def test_rows_grow_rarer_with_the_age_of_a_run(tmp_path: Path) -> None:
    journal = report.Journal(tmp_path, 0)
    rows, seconds = 0, 0.0
    while seconds < 200_000:
        seconds += 1.0 if seconds < 100 or seconds > 199_000 else 50.0
        if journal.is_due(seconds):
            journal.write(row(seconds))
            rows += 1
    journal.close()
    assert rows == len(report.read(tmp_path / report.METRICS))
    at_most = 100 + 199_000 / 50 + 1_000 / (200_000 / 10_000 - 1)
    assert rows <= at_most
    assert rows >= 100 + 1_000 / math.ceil(200_000 / 10_000)


def test_a_resumed_run_goes_on_behind_the_rows_it_keeps(tmp_path: Path) -> None:
    journal = report.Journal(tmp_path, 0)
    for seconds in (100_000.0, 100_010.0, 100_020.0):
        journal.write(row(seconds))
    journal.close()
    resumed = report.Journal(tmp_path, 100_010)
    assert not resumed.is_due(100_019.0)
    assert resumed.is_due(100_021.0)
    resumed.close()
    assert [each["updates"] for each in report.read(tmp_path / report.METRICS)] == [
        100_000,
        100_010,
    ]
