"""`pronk doctor`: what this machine has and lacks, and what to do about it."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pronk.cli import checks, examination
from pronk.finding import Finding
from pronk.words import printable

_MARKS = {"ok": ("✔", "green"), "optional": ("–", "yellow"), "missing": ("✘", "red")}


def doctor(
    run_dir: Annotated[
        Path | None,
        typer.Argument(metavar="RUN_DIR", help="A run directory to look into, not the machine."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Say what this machine has and lacks, or what is wrong with a run, and what to do about it.

    Status 1 when something is missing that `pronk up` needs.

    [bold]Example[/bold]  [cyan]pronk doctor runs/cartpole[/cyan]
    """
    findings = examine() if run_dir is None else examination.examine(run_dir)
    if as_json:
        print(json.dumps({finding.name: _plain(finding) for finding in findings}))
    else:
        _print(findings, run_dir)
    if any(finding.verdict == "missing" for finding in findings):
        raise typer.Exit(1)


def examine() -> list[Finding]:
    """Look at everything."""
    return [
        checks.python(),
        checks.cores(),
        checks.memory(),
        checks.disk(Path.cwd()),
        *checks.services(),
        checks.accelerator(),
        checks.bfloat16(),
        checks.buffer(),
        *checks.environments(),
        checks.allocator(),
        checks.loopback(),
        checks.docker(),
    ]


def _plain(finding: Finding) -> dict[str, str]:
    return {"verdict": finding.verdict, "found": finding.found, "advice": finding.advice}


def _print(findings: list[Finding], run_dir: Path | None) -> None:
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    for finding in findings:
        mark, colour = _MARKS[finding.verdict]
        table.add_row(
            Text(mark, style=colour),
            Text(printable(finding.name), style="bold"),
            Text(printable(finding.found)),
            Text(printable(finding.advice), style="dim" if finding.verdict == "ok" else colour),
        )
    missing = [finding.name for finding in findings if finding.verdict == "missing"]
    console = Console()
    console.print(table)
    if run_dir is not None:
        verdict = f"is not whole: see {', '.join(missing)}" if missing else "is whole"
        console.print(Text(f"\n{printable(f'{run_dir} {verdict}')}."), soft_wrap=True)
    elif missing:
        console.print(f"\n`pronk up` will not work yet: see {', '.join(missing)}.")
    else:
        console.print("\n`pronk up` works here: try `pronk up configs/cartpole.yaml`.")
