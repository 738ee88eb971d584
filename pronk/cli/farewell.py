"""What `pronk up` says at the end: what came out, where it lies and what to do with it."""

import json
import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from pronk.cli.rundir import RunDirectory
from pronk.config import Experiment
from pronk.policy.folders import released
from pronk.words import duration


def how_to_resume(directory: RunDirectory) -> str:
    """The command that goes on with a run."""
    return shlex.join(["pronk", "up", str(directory.config), "--run-dir", str(directory.path)])


def farewell(directory: RunDirectory, experiment: Experiment, console: Console) -> None:
    """Print the summary of a finished run; one policy after the other where there are several."""
    several = len(experiment.policies) > 1
    for policy in experiment.policies:
        folder = directory.path / policy if several else directory.path
        summary = _read(folder / "summary.json")
        title = f"{experiment.name} {policy}" if several else experiment.name
        reason = summary.get("stop_reason") or "finished"
        console.print(Text.assemble("\n", (title, "bold"), f"  {reason}"), soft_wrap=True)
        _print(_facts(folder, summary, policy), console)
    one = directory.path / next(iter(experiment.policies)) if several else directory.path
    _print(_pointers(directory, one), console)


def _read(path: Path) -> dict[str, Any]:
    try:
        summary: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return summary


def _facts(folder: Path, summary: dict[str, Any], policy: str) -> Iterator[tuple[str, str]]:
    mean = summary.get("return_mean_last_100")
    if mean is not None:
        yield "return", f"{mean:.1f}, mean of the last 100 episodes"
    if "steps" in summary:
        yield (
            "learned",
            f"{summary['steps']:,} steps ({summary['frames']:,} frames) in "
            f"{duration(summary['seconds'])}: {summary['steps_per_second']:,.0f} steps/s",
        )
    if releases := released(folder, policy):
        yield "policy", str(releases[-1])
    curve = folder / "curve.png"
    if curve.exists():
        yield "curve", str(curve)


def _pointers(directory: RunDirectory, policies: Path) -> Iterator[tuple[str, str]]:
    yield "logs", str(directory.logs)
    yield "evaluate", shlex.join(["pronk", "evaluate", str(policies)])
    yield "go on", f"{how_to_resume(directory)} --set stop.…"


def _print(rows: Iterable[tuple[str, str]], console: Console) -> None:
    for name, value in rows:  # unwrapped, so that it can be copied
        console.print(Text.assemble((f"{name:<10}", "dim"), value), soft_wrap=True)
