"""What `pronk up` says at the end: what came out, where it lies and what to do with it."""

import json
import shlex
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from pronk.cli.releases import policy_folders
from pronk.cli.rundir import RunDirectory
from pronk.cli.words import duration
from pronk.config import Experiment


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
        console.print(_facts(folder, summary, policy))
    console.print(_pointers(directory), soft_wrap=True)


def _read(path: Path) -> dict[str, Any]:
    try:
        summary: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return summary


def _facts(folder: Path, summary: dict[str, Any], policy: str) -> Table:
    grid = _grid()
    mean = summary.get("return_mean_last_100")
    if mean is not None:
        grid.add_row("return", f"{mean:.1f}, mean of the last 100 episodes")
    if "steps" in summary:
        grid.add_row(
            "learned",
            f"{summary['steps']:,} steps ({summary['frames']:,} frames) in "
            f"{duration(summary['seconds'])}: {summary['steps_per_second']:,.0f} steps/s",
        )
    if releases := policy_folders(folder, policy):
        grid.add_row("policy", str(releases[-1]))
    curve = folder / "curve.png"
    if curve.exists():
        grid.add_row("curve", str(curve))
    return grid


def _pointers(directory: RunDirectory) -> Table:
    grid = _grid()
    grid.add_row("logs", str(directory.logs))
    grid.add_row("evaluate", shlex.join(["pronk", "evaluate", str(directory.path)]))
    grid.add_row("go on", f"{how_to_resume(directory)} --set stop.…")
    return grid


def _grid() -> Table:
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(style="dim", min_width=10)
    grid.add_column(overflow="fold")
    return grid
