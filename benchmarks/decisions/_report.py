"""What the scripts beside this one share: options, repeats, a table, and the same as JSON."""

import argparse
import json
import platform
import time
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from pronk.hardware import processor, usable_cores

K = TypeVar("K")
V = TypeVar("V")

_LEAST_WIDTH = 130  # in a file or a pipe too


def options(description: str | None, script: str) -> argparse.ArgumentParser:
    """A parser of what every script takes."""
    parser = argparse.ArgumentParser(
        description=(description or "").partition("\n")[0],
        epilog=f"Example: python benchmarks/decisions/{script} --json {Path(script).stem}.json",
    )
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the numbers to a file")
    return parser


def interleaved(measures: Mapping[K, Callable[[], V]], rounds: int) -> dict[K, list[V]]:
    """What each measure gave in every round.

    They take turns: what else the machine does meanwhile then befalls all of them alike.
    """
    found: dict[K, list[V]] = {name: [] for name in measures}
    with Console(stderr=True).status("measuring"):
        for _ in range(rounds):
            for name, measure in measures.items():
                found[name].append(measure())
    return found


def seconds_per_call(
    call: Callable[[], object],
    seconds: float = 0.2,
    clock: Callable[[], float] = time.process_time,
) -> float:
    """The median of at least five calls, after two that warm up.

    By default seconds of the processor: to work of one thread they are what a clock on the wall
    shows of an idle machine, and of a busy one they leave out what others do. What waits for
    another thread or process needs `time.perf_counter`.
    """
    call()
    call()
    times: list[float] = []
    until = clock() + seconds
    while len(times) < 5 or clock() < until:
        began = clock()
        call()
        times.append(clock() - began)
    return median(times)


def versions_of(packages: Iterable[str]) -> dict[str, str]:
    """Versions of installed distributions by name."""
    return {name: version(name) for name in packages}


def table(columns: Iterable[str], rows: Iterable[tuple[str, ...]]) -> Table:
    """A table; its first column names what the others measure."""
    made = Table(box=SIMPLE)
    for index, heading in enumerate(columns):
        made.add_column(heading, justify="right" if index else "left", no_wrap=True)
    for row in rows:
        made.add_row(*row)
    return made


def publish(
    tables: Iterable[Table],
    numbers: Mapping[str, Any],
    versions: Mapping[str, str],
    json_file: Path | None,
) -> None:
    """Print the tables and where they were measured, and write the numbers where asked to.

    Args:
        tables: of the numbers.
        numbers: for JSON, in bytes and seconds.
        versions: of the programs that matter, beside Python.
        json_file: where to write them; None: nowhere.
    """
    hardware = {"processor": processor(), "cores": usable_cores()}
    versions = {"python": platform.python_version()} | dict(versions)
    console = Console(width=max(Console().width, _LEAST_WIDTH))
    for shown in tables:
        console.print(shown)
    words = ", ".join(f"{name} {number}" for name, number in versions.items())
    console.print(f"{hardware['cores']} × {hardware['processor']}; {words}", highlight=False)
    if json_file is not None:
        everything = {"hardware": hardware, "versions": versions, "numbers": numbers}
        json_file.write_text(json.dumps(everything, indent=2) + "\n", encoding="utf-8")
