"""Three clusters, each slow somewhere else: Prometheus and `pronk status` name the same place."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from links import Links
from prometheus_server import ROOT, Prometheus, Watched, needs

from pronk import config
from pronk.cli.process import Program
from pronk.cli.vitals import VERDICTS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900), needs("prometheus")]

ENDLESS = ("stop.return_mean=null", "stop.frames=null")
SLOW_ENVIRONMENT = """
import time
import gymnasium

class Slow(gymnasium.Wrapper):
    def step(self, action):
        time.sleep(0.005)
        return super().step(action)

def make():
    return Slow(gymnasium.make("CartPole-v1"))
"""
BYTES_PER_SECOND = 30_000
_URL_FILE = "PRONK_REDIS_URL_FILE"


@contextmanager
def slow_environment(folder: Path) -> Iterator[Watched]:
    (folder / "slow_environment.py").write_text(SLOW_ENVIRONMENT)
    path = os.pathsep.join([str(folder), *sys.path])

    def with_path(program: Program) -> Program:
        return replace(program, environment={**program.environment, "PYTHONPATH": path})

    changes = ("env.id=slow_environment:make", "actor.slots=8", "algorithm.batch_size=8")
    yield Watched(experiment(*changes), folder / "run", with_path)


@contextmanager
def slow_learner(folder: Path) -> Iterator[Watched]:
    def slowed(program: Program) -> Program:
        if program.name != "learner":
            return program
        options = program.command[program.command.index("learner") + 1 :]
        wrapped = (sys.executable, str(ROOT / "tests" / "chaos" / "slow_learner.py"), *options)
        return replace(program, command=wrapped)

    yield Watched(experiment(), folder / "run", slowed)


@contextmanager
def slow_buffer(folder: Path) -> Iterator[Watched]:
    """Everybody reaches Redis through a thin wire."""
    with Links() as links:

        def linked(program: Program) -> Program:
            if program.name in ("valkey", "param-server"):
                return program
            url = Path(program.environment[_URL_FILE]).read_text()
            port = urlsplit(url).port or 0
            link = links.to(port, BYTES_PER_SECOND)
            thin = folder / f"{program.name}.url"
            thin.write_text(url.replace(f":{port}/", f":{link.port}/"))
            return replace(program, environment={**program.environment, _URL_FILE: str(thin)})

        yield Watched(experiment(), folder / "run", linked)


def experiment(*changes: str) -> config.Experiment:
    return config.load(ROOT / "configs" / "cartpole.yaml", (*ENDLESS, *changes))


@pytest.mark.parametrize(
    ("slow", "verdict"),
    [
        (slow_environment, "actor-bound"),
        (slow_learner, "learner-bound"),
        (slow_buffer, "buffer-bound"),
    ],
)
def test_the_slow_place_is_named(slow, verdict: str, tmp_path: Path) -> None:
    with (
        slow(tmp_path) as watched,
        watched,
        Prometheus(tmp_path / "prometheus", watched.ports) as prometheus,
    ):
        watched.until(lambda: prometheus.value("sum(pronk_updates_total) > 5"), 400, "updates")
        watched.rest(70)  # what the start looked like is forgotten
        number = prometheus.value("avg_over_time(pronk:bottleneck[10s])")
        status = watched.status()
        shares = {
            share: (prometheus.value(f"pronk:{share}"), status[share])
            for share in ("learner_waiting_share", "actor_blocked_share")
        }
        assert status["verdict"] == verdict, shares
        assert number is not None, shares
        assert number.is_integer(), shares
        assert VERDICTS[int(number)] == verdict, shares
