"""Breaks a cluster at random, and repeatably: what is done to whom follows from a seed."""

import random
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

from cluster import Cluster, signal_group
from links import Link, Links

from pronk.cli.process import Program

CUT_SECONDS = 20.0
FROZEN_SECONDS = (0.5, 15.0)
PAUSE_SECONDS = (0.2, 2.0)
PAIRS = 0.2
"""Share of moments at which two processes are hit at once."""
PATIENT = 0.5
"""Share of moments that wait until the run has got on."""

Deed = tuple[str, str]
"""(what: kill, freeze or cut; to which program)."""


@dataclass(frozen=True)
class Moment:
    """What happens together, and after what: a pause, or progress as well."""

    deeds: tuple[Deed, ...]
    pause: float
    patient: bool
    frozen: float


def plan(seed: int, deeds: int, names: list[str]) -> Iterator[Moment]:
    """Moments with so many deeds in all."""
    chance = random.Random(seed)
    while deeds > 0:
        count = min(deeds, 2 if chance.random() < PAIRS else 1)
        deeds -= count
        victims = chance.sample(names, count)
        done = tuple((chance.choice(("kill", "kill", "freeze", "cut")), name) for name in victims)
        yield Moment(
            done,
            chance.uniform(*PAUSE_SECONDS),
            chance.random() < PATIENT,
            chance.uniform(*FROZEN_SECONDS),
        )


class Chaos:
    """What is done to a cluster, whose members now talk through links.

    Attributes:
        deeds: what was done, and when.
    """

    def __init__(self, cluster: Cluster, links: Links) -> None:
        """Before the cluster starts."""
        self.deeds: list[tuple[float, Deed]] = []
        self._cluster = cluster
        assert cluster.addresses.valkey_port is not None
        self._server = int(cluster.addresses.server.rpartition(":")[2])
        self._valkey = cluster.addresses.valkey_port
        self._links: dict[str, tuple[Link, ...]] = {}
        self._undo: list[tuple[float, int | Link]] = []
        for name, program in cluster.programs.items():
            if name not in ("valkey", "param-server"):
                cluster.programs[name] = self._linked(program, links)

    def run(self, moments: Iterator[Moment], seconds: float) -> None:
        """Let it learn, do every deed, let it learn as much again, and wait for the end of the run.

        Raises:
            TimeoutError: the run did not end in so many seconds.
        """
        cluster = self._cluster
        until = partial(cluster.until, deadline=time.monotonic() + seconds, meanwhile=self._restore)
        with cluster:
            until(lambda: cluster.timeline.frames > 0)
            for moment in moments:
                before = cluster.timeline.frames
                for deed in moment.deeds:
                    self._do(deed, moment.frozen)
                until(partial(_passed, time.monotonic() + moment.pause))
                if moment.patient:
                    until(partial(self._beyond, before))
            until(partial(self._beyond, 2 * cluster.timeline.frames))
            cluster.let_end()
            until(cluster.has_ended)
            until(lambda: not self._undo)
            cluster.drain()

    def _beyond(self, frames: int) -> bool:
        return self._cluster.timeline.frames > frames

    def _linked(self, program: Program, links: Links) -> Program:
        server, valkey = links.to(self._server), links.to(self._valkey)
        self._links[program.name] = server, valkey
        environment = {
            **program.environment,
            "PRONK_SERVER": f"127.0.0.1:{server.port}",
            "PRONK_REDIS_URL": f"redis://127.0.0.1:{valkey.port}/0",
        }
        return replace(program, environment=environment)

    def _do(self, deed: Deed, frozen: float) -> None:
        what, name = deed
        now = time.monotonic()
        self.deeds.append((now, deed))
        pid = self._cluster.pid(name)
        if what == "cut":
            # Nobody is between the server's or the buffer's own ends: all others are cut off.
            mine = self._links.get(name)
            index = ("param-server", "valkey").index(name) if mine is None else 0
            for link in mine or [pair[index] for pair in self._links.values()]:
                link.cut()
                self._undo.append((now + CUT_SECONDS, link))
        elif pid is not None:
            signal_group(pid, signal.SIGKILL if what == "kill" else signal.SIGSTOP)
            if what == "freeze":
                self._undo.append((now + frozen, pid))

    def _restore(self, now: float) -> None:
        due = [each for each in self._undo if each[0] <= now]
        self._undo = [each for each in self._undo if each[0] > now]
        for _, what in due:
            if isinstance(what, Link):
                what.mend()
            else:
                signal_group(what, signal.SIGCONT)


def _passed(moment: float) -> bool:
    return time.monotonic() > moment
