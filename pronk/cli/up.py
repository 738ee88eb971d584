"""`pronk up`: a whole cluster on this machine, from its start to its end."""

import os
import sys
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from pronk import config as experiments
from pronk.cli import preflight
from pronk.cli.farewell import farewell, how_to_resume
from pronk.cli.picture import Scene
from pronk.cli.rundir import RunDirectory, fresh
from pronk.cli.session import Cluster, Judge, cluster
from pronk.cli.signals import Signals
from pronk.cli.supervisor import GaveUp
from pronk.cli.view import LiveView, PlainView, Screen
from pronk.cli.vitals import Vitals
from pronk.config import Experiment
from pronk.transport.redis import connect as connect_redis

_TICK_SECONDS = 0.05


def up(
    config: Annotated[Path, typer.Argument(help="The experiment, a YAML file.")],
    actors: Annotated[
        int | None, typer.Option(min=1, help="Actors; default: the experiment's actor.count.")
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Override one key; may be repeated."),
    ] = None,
    run_dir: Annotated[
        Path | None,
        typer.Option(help="Where the run lives; one that is there is resumed. Default: runs/…"),
    ] = None,
    redis_url: Annotated[
        str | None, typer.Option(help="A Redis to use; default: one of its own.")
    ] = None,
    headless: Annotated[
        bool, typer.Option("--headless", help="Plain lines even on a terminal.")
    ] = False,
) -> None:
    """Train on this machine: a whole cluster of real processes, until its stop condition is met.

    Ctrl-C stops it in order; the same command with --run-dir goes on where it was.

    [bold]Examples[/bold]

    [cyan]pronk up configs/cartpole.yaml[/cyan]

    [cyan]pronk up configs/cartpole.yaml --actors 4 --set env.id=Acrobot-v1[/cyan]

    [cyan]pronk up runs/NAME/config.yaml --run-dir runs/NAME --set stop.frames=2e6[/cyan]
    """
    experiment = read(config, actors, overrides or [])
    directory = RunDirectory(run_dir) if run_dir is not None else fresh(experiment)
    if redis_url is not None:
        connect_redis(redis_url).close()  # refuses what is no address
    directory.check(experiment)
    with Signals() as signals:
        preflight.check(experiment, signals.stop)
        if signals.number is None:
            failure = _run(experiment, directory, redis_url, headless, signals)
    if signals.number is not None:
        _say(f"stopped; go on with: {how_to_resume(directory)}", signals)
        raise typer.Exit(128 + signals.number)
    if failure is not None:
        _say(failure, signals)
        raise typer.Exit(1)
    farewell(directory, experiment, Console())


def read(config: Path, actors: int | None, overrides: list[str]) -> Experiment:
    """The experiment as `up` runs it."""
    counted = [] if actors is None else [f"actor.count={actors}"]
    return experiments.load(config, [*overrides, *counted])


def _run(
    experiment: Experiment,
    directory: RunDirectory,
    redis_url: str | None,
    headless: bool,
    signals: Signals,
) -> str | None:
    """Run until an end; None when the stop condition was met, else why it was not."""
    console = Console()
    plain = headless or not console.is_terminal
    screen = Screen(PlainView(console) if plain else LiveView(console))
    director = Director(experiment, directory, screen)
    try:
        with cluster(experiment, directory, redis_url, screen.tell) as running:
            try:
                return _watch(running, director, signals)
            finally:
                director.stopping = True
                running.supervisor.drain(lambda: _meanwhile(running, director, signals))
    finally:
        screen.close()


def _watch(running: Cluster, director: "Director", signals: Signals) -> str | None:
    judge = Judge()
    while not signals.stop.wait(_TICK_SECONDS):
        try:
            running.supervisor.tick()
        except GaveUp as error:
            return str(error)
        director.show(running)
        vitals = running.poller.newest
        end = judge.end(vitals, time.monotonic())
        if end is not None and vitals is not None:
            return None if end == "FINISHED" else f"the run failed: {vitals.reason}"
    return "stopped"


def _meanwhile(running: Cluster, director: "Director", signals: Signals) -> bool:
    director.show(running)
    return signals.hurried


class Director:
    """Makes scenes of what goes on."""

    def __init__(self, experiment: Experiment, directory: RunDirectory, screen: Screen) -> None:
        self.stopping = False
        self._experiment = experiment
        self._directory = directory
        self._screen = screen
        self._started = time.monotonic()

    def show(self, running: Cluster) -> None:
        """Show the present moment."""
        vitals = running.poller.newest
        self._screen.show(
            Scene(
                name=self._experiment.name,
                environment=self._experiment.env.id,
                run_dir=str(self._directory.path),
                seconds=time.monotonic() - self._started,
                phase=self._phase(vitals),
                children=running.supervisor.statuses(),
                vitals=vitals,
                goal=self._experiment.stop.return_mean,
            )
        )

    def _phase(self, vitals: Vitals | None) -> str:
        if self.stopping:
            return "stopping"
        return "training" if vitals is not None and vitals.updates else "starting"


def _say(message: str, signals: Signals) -> None:
    if signals.closed_terminal:
        return
    try:
        print(f"pronk: {message}", file=sys.stderr, flush=True)
    except OSError:  # nobody is there to read it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
