"""`pronk bench`: how fast this machine trains."""

import json
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from pronk import config as experiments
from pronk.cli import preflight
from pronk.cli.failure import Failed
from pronk.cli.measure import Measurement, Meter
from pronk.cli.rundir import RunDirectory
from pronk.cli.scratch import scratch
from pronk.cli.session import Cluster, cluster
from pronk.cli.signals import Signals
from pronk.config import Experiment
from pronk.errors import Misconfigured
from pronk.words import duration, percent

bench = typer.Typer(no_args_is_help=True, rich_markup_mode="rich")

_TICK_SECONDS = 0.05
_WARM_UP_SECONDS = 5.0
_START_SECONDS = 120.0
_ENDLESS = (
    "stop.frames=null",
    "stop.seconds=null",
    "stop.return_mean=null",
)


@bench.callback()
def _group() -> None:
    """Measure how fast this machine trains."""


@bench.command("cluster")
def measure_cluster(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="The experiment.")] = Path(
        "configs/cartpole.yaml"
    ),
    actors: Annotated[int, typer.Option(min=1, help="Actors.")] = 2,
    seconds: Annotated[float, typer.Option(min=5, help="How long to measure.")] = 30.0,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override one key.")
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the numbers to a file.")
    ] = None,
) -> None:
    """Measure a whole cluster that trains: environment steps consumed by the learner per second.

    Real processes in a run directory that is thrown away; the warm-up is not counted.

    [bold]Example[/bold]  [cyan]pronk bench cluster configs/cartpole.yaml --json bench.json[/cyan]
    """
    experiment = experiments.load(config, [*(overrides or []), *_ENDLESS, f"actor.count={actors}"])
    if json_file is not None and not json_file.absolute().parent.is_dir():
        raise Misconfigured(f"--json {json_file}: there is no such directory")
    with Signals() as signals, scratch("pronk-bench-") as folder:
        preflight.check(experiment, signals.stop)
        measurement = _measure(experiment, RunDirectory(folder), seconds, signals)
        if measurement is None:
            raise typer.Exit(128 + (signals.number or 0))
    result = measurement.as_json(experiment)
    if json_file is not None:
        json_file.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    _print(result)


def _measure(
    experiment: Experiment, directory: RunDirectory, seconds: float, signals: Signals
) -> Measurement | None:
    console = Console(stderr=True)
    with (
        console.status("starting") as shown,
        cluster(experiment, directory, None, console.print) as running,
    ):
        try:
            if not _wait_for_updates(running, signals):
                return None
            shown.update("warming up")
            if not _tick_for(running, _WARM_UP_SECONDS, signals):
                return None
            shown.update(f"measuring for {duration(seconds)}")
            meter = Meter(running)
            if not _tick_for(running, seconds, signals, meter):
                return None
            return meter.result()
        finally:
            shown.update("stopping")
            running.supervisor.drain(lambda: signals.hurried)


def _wait_for_updates(running: Cluster, signals: Signals) -> bool:
    deadline = time.monotonic() + _START_SECONDS
    while not signals.stop.wait(_TICK_SECONDS):
        running.supervisor.tick()
        vitals = running.poller.newest
        if vitals is not None and vitals.updates > 0:
            return True
        if time.monotonic() > deadline:
            raise Failed(f"the learner made no update within {_START_SECONDS:g} s")
    return False


def _tick_for(
    running: Cluster, seconds: float, signals: Signals, meter: Meter | None = None
) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if signals.stop.wait(_TICK_SECONDS):
            return False
        running.supervisor.tick()
        if meter is not None:
            meter.look()
    return True


def _print(result: dict[str, Any]) -> None:
    table = Table.grid(padding=(0, 3, 0, 0))
    table.add_column(style="dim")
    table.add_column()
    hardware = result["hardware"]
    rows = [
        ("steps/s", f"[bold]{result['steps_per_second']:,.0f}[/bold]"),
        ("frames/s", f"{result['frames_per_second']:,.0f} (frame skip {result['frame_skip']})"),
        ("work", f"{result['env']}, {result['network']}, {result['actors']} actors"),
        ("learner busy", _share(result["learner_busy_share"])),
        ("actors blocked", _share(result["actor_blocked_share"])),
        ("lag", "–" if result["mean_lag"] is None else f"{result['mean_lag']:.1f}"),
        *(
            (f"CPU {name}", f"{1e6 * seconds:.2f} µs per step")
            for name, seconds in result["cpu_seconds_per_step"].items()
        ),
        ("on", f"{hardware['cores']} × {hardware['processor']}"),
    ]
    for row in rows:
        table.add_row(*row)
    Console().print(table)


def _share(share: float | None) -> str:
    return "–" if share is None else percent(share)
