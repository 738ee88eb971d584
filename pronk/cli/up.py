"""`pronk up`: a whole cluster on this machine, from its start to its end."""

import math
import sys
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from pronk import config as experiments
from pronk.cli import preflight
from pronk.cli.failure import Failed
from pronk.cli.farewell import farewell, how_to_resume
from pronk.cli.picture import Scene
from pronk.cli.rundir import RunDirectory, fresh
from pronk.cli.session import Cluster, Judge, Silence, cluster
from pronk.cli.signals import Signals
from pronk.cli.view import LiveView, PlainView, Screen, Terminal, surviving_its_reader
from pronk.cli.vitals import Vitals
from pronk.config import Experiment
from pronk.errors import Misconfigured
from pronk.transport.redis import connect as connect_redis
from pronk.transport.settings import load as load_settings

_TICK_SECONDS = 0.05


def up(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="The experiment, a YAML file.")],
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
        str | None,
        typer.Option(
            help="A Redis to use, without a password; `env`: that of PRONK_REDIS_URL. "
            "Default: one of its own."
        ),
    ] = None,
    secure: Annotated[
        bool,
        typer.Option("--secure", help="TLS, tokens and passwords between all, made on the spot."),
    ] = False,
    headless: Annotated[
        bool, typer.Option("--headless", help="Plain lines even on a terminal.")
    ] = False,
) -> None:
    """Train on this machine: a whole cluster of real processes, until its stop condition is met.

    Ctrl-C stops it in order; the same command with --run-dir goes on where it was.

    [bold]Examples[/bold]

    [cyan]pronk up configs/cartpole.yaml[/cyan]

    [cyan]pronk up configs/cartpole.yaml --actors 4 --set env.id=Acrobot-v1[/cyan]

    [cyan]pronk up runs/NAME/config.yaml --run-dir runs/NAME --set stop.frames=2_000_000[/cyan]
    """
    counted = [] if actors is None else [f"actor.count={actors}"]
    experiment = experiments.load(config, [*(overrides or []), *counted])
    directory = RunDirectory(run_dir) if run_dir is not None else fresh(experiment)
    buffer_url = choose_buffer(redis_url)
    with Signals() as signals:
        train(experiment, directory, buffer_url, signals, open_screen(headless), secure=secure)
    if signals.number is not None:
        with suppress(OSError):  # the terminal may be gone
            print(f"pronk: {_stopped(directory)}", file=sys.stderr)
        raise typer.Exit(128 + signals.number)
    with surviving_its_reader():
        farewell(directory, experiment, Terminal())


def _stopped(directory: RunDirectory) -> str:
    if not directory.config.exists():
        return "stopped before anything was started"
    return f"stopped; go on with: {how_to_resume(directory)}"


def train(
    experiment: Experiment,
    directory: RunDirectory,
    redis_url: str | None,
    signals: Signals,
    screen: Screen,
    *,
    secure: bool = False,
) -> None:
    """Run a cluster until its stop condition is met or a signal came.

    Whatever the end, its processes are stopped in order.

    Raises:
        Misconfigured: the experiment cannot run, before or after it was started.
        Failed: the run failed, or a process died again and again.
    """
    director = Director(experiment, directory, screen)
    try:
        director.show(None)
        if secure and redis_url is not None:
            raise Misconfigured(
                "--secure makes users on a buffer of its own: leave --redis-url away; for a Redis "
                "elsewhere start the services yourself, with PRONK_REDIS_URL=rediss://…"
            )
        check(experiment, directory, redis_url, signals)
        if signals.stop.is_set():
            return
        with cluster(experiment, directory, redis_url, screen.tell, secure=secure) as running:
            try:
                _watch(running, director, signals)
            finally:
                director.stopping = True
                running.supervisor.drain(partial(_meanwhile, running, director, signals))
    finally:
        screen.close()


def check(
    experiment: Experiment, directory: RunDirectory, redis_url: str | None, signals: Signals
) -> None:
    """See what can be seen to be wrong before anything starts.

    Raises:
        Misconfigured: something is.
    """
    if redis_url is not None:
        try:
            connect_redis(redis_url).close()
        except Misconfigured as error:
            raise Misconfigured(str(error).replace("PRONK_REDIS_URL", "--redis-url")) from None
    directory.check(experiment)
    preflight.check(experiment, signals.stop)


def choose_buffer(redis_url: str | None) -> str | None:
    """The URL that `--redis-url` means.

    Raises:
        Misconfigured: it holds a password, which every program of this machine could read.
    """
    if redis_url is None:
        return None
    if redis_url == "env":
        return load_settings().buffer_url()
    if "@" in redis_url or "password=" in redis_url:
        raise Misconfigured(
            "--redis-url: others can read a password in a command line: "
            "put the URL into PRONK_REDIS_URL, and give --redis-url env"
        )
    return redis_url


def open_screen(headless: bool) -> Screen:
    """Where the run is shown."""
    console = Terminal()
    plain = headless or not console.is_terminal
    return Screen(PlainView(console) if plain else LiveView(console))


def _watch(running: Cluster, director: "Director", signals: Signals) -> None:
    judge, silence = Judge(), Silence(director.tell)
    pinger = running.pinger
    # The services wait for a buffer without end, and so does the run.
    unheard = Silence(director.tell, pinger.address, math.inf) if pinger is not None else None
    while not signals.stop.wait(_TICK_SECONDS):
        running.supervisor.tick()
        director.show(running)
        silence.look(running.poller.silent_seconds, running.poller.why)
        if pinger is not None and unheard is not None:
            unheard.look(pinger.silent_seconds, pinger.why)
        vitals = running.poller.newest
        end = judge.end(vitals, time.monotonic())
        if end == "FINISHED":
            return
        if end is not None and vitals is not None:
            raise Failed(f"the run failed: {vitals.reason}")


def _meanwhile(running: Cluster, director: "Director", signals: Signals) -> bool:
    director.show(running)
    return signals.hurried


class Director:
    """Makes scenes of what goes on."""

    def __init__(self, experiment: Experiment, directory: RunDirectory, screen: Screen) -> None:
        self.stopping = False
        self._vitals: Vitals | None = None
        self._experiment = experiment
        self._directory = directory
        self._screen = screen
        self._started = time.monotonic()

    def tell(self, event: str) -> None:
        """Show one line that stays."""
        self._screen.tell(event)

    def show(self, running: Cluster | None) -> None:
        """Show the present moment; None while nothing runs yet."""
        if running is not None and not self.stopping:  # members that leave take numbers along
            self._vitals = running.poller.newest
        vitals = self._vitals
        self._screen.show(
            Scene(
                name=self._experiment.name,
                environment=self._experiment.env.id,
                run_dir=str(self._directory.path),
                seconds=time.monotonic() - self._started,
                phase=self._phase(running, vitals),
                children=running.supervisor.statuses() if running else [],
                vitals=vitals,
                goal=self._experiment.stop.return_mean,
            )
        )

    def _phase(self, running: Cluster | None, vitals: Vitals | None) -> str:
        if running is None:
            return "checking"
        if self.stopping:
            return "stopping"
        return "training" if vitals is not None and vitals.updates else "starting"
