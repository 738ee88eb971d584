"""Files are replaced in one step, whatever happens meanwhile."""

from pathlib import Path

import pytest
from faults import Fault, Operation, at_every_call, needs_ptrace

from pronk import files


def _prepare(folder: Path) -> None:
    (folder / "file").write_bytes(b"old" * 10_000)


def _run(folder: Path) -> None:
    files.replace(folder / "file", b"new" * 20_000)


def _look(folder: Path) -> bytes:
    return (folder / "file").read_bytes()


@needs_ptrace
def test_a_file_is_the_old_one_or_the_new_one(tmp_path: Path) -> None:
    calls = at_every_call(Operation(_prepare, _run, _look), tmp_path / "at")
    assert calls[Fault.KILL] == ["openat", "write", "fsync", "rename", "fsync"]
    assert calls[Fault.TEAR] == ["write"]
    assert all(calls.values())


@needs_ptrace
def test_the_tool_sees_a_file_that_is_written_in_place(tmp_path: Path) -> None:
    operation = Operation(_prepare, _write_in_place, _look)
    with pytest.raises(AssertionError, match="was killed before it"):
        at_every_call(operation, tmp_path / "at")


def _write_in_place(folder: Path) -> None:
    (folder / "file").write_bytes(b"new" * 20_000)


def test_a_failure_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    files.replace(tmp_path / "file", b"old")
    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        files.replace(tmp_path / "file", b"new")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"file": b"old"}
