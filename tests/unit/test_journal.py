"""The journal of a run: rows that a checkpoint knows, and never too many of them."""

from pathlib import Path
from typing import Any

from pronk_learner import report


def row(seconds: float) -> dict[str, Any]:
    return {"frames": int(seconds), "updates": int(seconds), "seconds": seconds, "lag": None}


def rows_between(journal: report.Journal, begin: int, end: int) -> int:
    """Rows that a run writes which asks once a second."""
    rows = 0
    for seconds in map(float, range(begin, end)):
        if journal.is_due(seconds):
            journal.write(row(seconds))
            rows += 1
    return rows


def test_rows_grow_rarer_with_the_age_of_a_run(tmp_path: Path) -> None:
    journal = report.Journal(tmp_path, 0)
    assert rows_between(journal, 1, 101) == 100, "one a second at first"
    rows_between(journal, 200_000, 200_001)
    assert rows_between(journal, 200_001, 200_211) == 10, "one in 21 seconds after two days"
    journal.close()
    assert len(report.read(tmp_path / report.METRICS)) == 111


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
