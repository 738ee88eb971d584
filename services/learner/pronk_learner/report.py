"""What a run leaves behind: `metrics.jsonl`, TensorBoard events, `curve.png`, `summary.json`."""

import json
import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch.utils.tensorboard import SummaryWriter

from pronk.config import Experiment, experiment_hash
from pronk.wire.v1 import reports_pb2
from pronk_learner.progress import Progress

METRICS = "metrics.jsonl"
_ROWS_LEFT = 1000


class Journal:
    """Rows of numbers over time, as JSON lines and as TensorBoard scalars over frames.

    A resumed run drops the rows that its checkpoint does not know.
    """

    def __init__(self, folder: Path, updates: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / METRICS
        kept = [row for row in read(path) if row["updates"] <= updates]
        path.write_text("".join(json.dumps(row) + "\n" for row in kept))
        self._file = path.open("a", encoding="utf-8")
        purge = kept[-1]["frames"] + 1 if kept else 0
        self._board = SummaryWriter(str(folder), purge_step=purge)

    def write(self, row: dict[str, Any]) -> None:
        """Append a row; it has `frames` and `updates`, and None where a value is not known."""
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()
        for name, value in row.items():
            if isinstance(value, int | float) and name not in ("frames", "time"):
                self._board.add_scalar(name, value, row["frames"])

    def close(self) -> None:
        """Flush and close the files."""
        self._file.close()
        self._board.close()


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
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
    temporary.replace(path)


def hardware() -> dict[str, Any]:
    """The machine a run's numbers belong to."""
    processor = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        models = [line for line in cpuinfo.read_text().splitlines() if "model name" in line]
        processor = models[0].partition(":")[2].strip() if models else processor
    return {
        "processor": processor,
        "cores": _cores(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def _cores() -> int | None:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count()


def commit() -> str | None:
    """The commit of the source in use, where it is a git checkout or `PRONK_COMMIT` says so."""
    if named := os.environ.get("PRONK_COMMIT"):
        return named
    source = Path(__file__).resolve().parent
    command = ["git", "-C", str(source), "rev-parse", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
