"""The journal of a run: rows that a checkpoint knows, and never too many of them."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from errno import ENOSPC
from pathlib import Path
from typing import Any

import pytest
from pronk_learner import report
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.summary.writer.record_writer import RecordWriter

from pronk import files


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


@contextmanager
def no_file_longer_than(size: int) -> Iterator[None]:
    """As on a disk that is full: a write takes what fits and the next one is refused."""
    old, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, most))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (old, most))


@pytest.mark.parametrize("full", ["metrics.jsonl", "events.*"])
def test_no_row_is_cut_in_two_by_a_full_disk(tmp_path: Path, full: str) -> None:
    journal = report.Journal(tmp_path, 0)
    for seconds in (1.0, 2.0):
        journal.write(row(seconds))
    (path,) = tmp_path.glob(full)
    with no_file_longer_than(path.stat().st_size + 10), pytest.raises(OSError, match="large"):
        journal.write(row(3.0))
    journal.write(row(4.0))
    journal.close()
    rows = (tmp_path / report.METRICS).read_text().splitlines()
    assert len(rows) == len(report.read(tmp_path / report.METRICS)) == 4
    (events,) = tmp_path.glob("events.*")
    steps = [event.step for event in EventFileLoader(str(events)).Load() if event.summary.value]
    assert steps == ([1, 2, 4] if full == "metrics.jsonl" else [1, 2, 3, 4])


def test_a_journal_that_finds_no_room_can_be_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(ENOSPC, "No space left on device")

    for owner, name in ((files, "replace"), (RecordWriter, "write")):
        with monkeypatch.context() as full:
            full.setattr(owner, name, refuse)
            with pytest.raises(OSError, match="No space"):
                report.Journal(tmp_path, 0)
        assert not list(tmp_path.glob("events.*")), "one would be left by every attempt"
    report.Journal(tmp_path, 0).close()
