"""What a run leaves behind: `metrics.jsonl`, TensorBoard events, `curve.png`, `summary.json`."""

import json
import platform
import subprocess
from contextlib import closing
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from pronk import files
from pronk.config import Experiment, experiment_hash
from pronk.errors import Misconfigured
from pronk.hardware import processor, usable_cores
from pronk.transport import settings as environment
from pronk.wire.v1 import reports_pb2
from pronk_learner.board import Board
from pronk_learner.progress import Progress

METRICS = "metrics.jsonl"
_ROWS = 10_000
"""Rows of a run's first hours, one a second; about as many again for every e-fold of its age."""
_ROWS_LEFT = 1000


class Journal:
    """Rows of numbers over time, as JSON lines and as TensorBoard scalars over frames.

    A resumed run drops the rows that its checkpoint does not know.

    Raises:
        OSError: the disk is full (`pronk.files.is_full`): try again.
        Misconfigured: the folder cannot be written.
    """

    def __init__(self, folder: Path, updates: int) -> None:
        path = folder / METRICS
        try:
            folder.mkdir(parents=True, exist_ok=True)
            kept = forget(path, updates)
            purge = kept[-1]["frames"] + 1 if kept else 0
            self._newest = kept[-1]["seconds"] if kept else 0.0
            self._board = Board(folder, purge)
            self._file = path.open("a", encoding="utf-8")
        except OSError as error:
            if files.is_full(error):
                raise
            raise Misconfigured(
                f"cannot write in {folder}: {error.strerror}; choose another run directory"
            ) from None

    def is_due(self, seconds: float) -> bool:
        """Whether a run of so many seconds has earned another row: they grow rarer with its age."""
        return seconds - self._newest >= seconds / _ROWS

    def write(self, row: dict[str, Any]) -> None:
        """Append a row: `frames`, `updates`, `seconds`, and None where a value is not known.

        Raises:
            OSError: the disk is full or cannot be written; most of what does not go now goes with
                a later row, and no row is cut in two.
        """
        self._newest = row["seconds"]
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()
        known = {name: value for name, value in row.items() if isinstance(value, int | float)}
        for name in ("frames", "time"):
            known.pop(name, None)
        self._board.add(known, row["frames"])

    def close(self) -> None:
        """Flush and close the files.

        Raises:
            OSError: not everything could be written.
        """
        with closing(self._board):
            self._file.close()


def forget(path: Path, updates: int) -> list[dict[str, Any]]:
    """Drop the rows of a `metrics.jsonl` that come after `updates`; the rows that stay.

    In one step, and into another file than the one an older learner may still have open.

    Raises:
        OSError: it cannot be written.
    """
    kept = [row for row in read(path) if row["updates"] <= updates]
    files.replace(path, "".join(json.dumps(row) + "\n" for row in kept).encode())
    return kept


def read(path: Path) -> list[dict[str, Any]]:
    """The rows of a `metrics.jsonl`; a half-written last line is left out."""
    rows = []
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:
                continue
    return rows


def summary(
    experiment: Experiment, run: str, progress: Progress, stop_reason: str | None
) -> dict[str, Any]:
    """What `summary.json` says of a run."""
    counters = progress.counters
    return {
        "run": run,
        "env": experiment.env.id,
        "algorithm": experiment.algorithm.name,
        "seed": experiment.seed,
        "experiment_hash": experiment_hash(experiment),
        "commit": commit(),
        "frames": counters.frames,
        "steps": counters.steps,
        "seconds": round(counters.seconds, 3),
        "steps_per_second": round(counters.steps / counters.seconds, 1) if counters.seconds else 0,
        "episodes": counters.episodes,
        "return_mean_last_100": progress.return_mean(100),
        "stop_reason": stop_reason,
        "learner_updates": counters.updates,
        "mean_lag": progress.mean_lag,
        "versions": {
            "pronk": version("pronk"),
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
        "hardware": hardware(),
    }


def message(policy: str, folder: Path) -> reports_pb2.Report:
    """The small part of a run's folder, bounded, to be left with the parameter server."""
    rows = read(folder / METRICS)
    step = max(1, -(-len(rows) // _ROWS_LEFT))
    kept = rows[::-step][::-1]  # every so many, the last included
    curve = folder / "curve.png"
    return reports_pb2.Report(
        policy=policy,
        summary=(folder / "summary.json").read_bytes(),
        curve=curve.read_bytes() if curve.exists() else b"",
        metrics="".join(json.dumps(row) + "\n" for row in kept).encode(),
    )


def write_json(path: Path, data: dict[str, Any]) -> None:
    """Write a JSON file in one step: readers see the old one or the new one."""
    files.replace(path, (json.dumps(data, indent=2) + "\n").encode())


def hardware() -> dict[str, Any]:
    """The machine a run's numbers belong to."""
    return {
        "processor": processor(),
        "cores": usable_cores(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def commit() -> str | None:
    """The commit of the source in use, where it is a git checkout or `PRONK_COMMIT` says so."""
    if named := environment.load().commit:
        return named
    source = Path(__file__).resolve().parent
    command = ["git", "-C", str(source), "rev-parse", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
