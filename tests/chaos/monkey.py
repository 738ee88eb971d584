"""Breaks a cluster at random: who is hit by what, in which order, follows from a seed.

So do the pauses; how far the processes are at such a moment does not.
"""

import random
import signal
import time
from collections.abc import Callable, Iterator
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
"""Share of moments that are waited for until the run has got over them."""
PATIENCE_SECONDS = 240.0
"""For that: it is a matter of seconds where processes have the machine for themselves."""

Deed = tuple[str, str]
"""(what: kill, freeze or cut; to which program)."""


@dataclass(frozen=True)
class Moment:
    """What happens together, and after what: a pause, or recovery as well."""

    deeds: tuple[Deed, ...]
    pause: float
    patient: bool
    frozen: float


@dataclass
class Done:
    """A deed and its consequences, in seconds of `time.monotonic`; `over` is None until it is."""

    deed: Deed
    when: float
    until: float
    over: float | None = None


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
        deeds: what was done.
    """

    def __init__(self, cluster: Cluster, links: Links) -> None:
        """Before the cluster starts."""
        self.deeds: list[Done] = []
        self._cluster = cluster
        assert cluster.addresses.valkey_port is not None
        self._server = int(cluster.addresses.server.rpartition(":")[2])
        self._valkey = cluster.addresses.valkey_port
        self._links: dict[str, tuple[Link, ...]] = {}
        self._frozen: dict[int, float] = {}
        self._cut: dict[Link, float] = {}
        self._deadline = 0.0
        for name, program in cluster.programs.items():
            if name not in ("valkey", "param-server"):
                cluster.programs[name] = self._linked(program, links)

    def run(self, moments: Iterator[Moment], seconds: float) -> None:
        """Let it learn, do every deed, let it learn as much again, and wait for the end of the run.

        Raises:
            TimeoutError: the run did not end in so many seconds, or did not get over a deed.
        """
        cluster = self._cluster
        self._deadline = time.monotonic() + seconds
        with cluster:
            self._until("the run began", lambda: cluster.timeline.frames > 0)
            for moment in moments:
                self._strike(moment)
            self._until("all was mended", lambda: not self._cut and not self._frozen)
            self._recover(self.deeds)
            self._until("everybody was back", lambda: not cluster.missing(), PATIENCE_SECONDS)
            half = cluster.timeline.frames
            self._until("as much again", lambda: cluster.timeline.frames > 2 * half)
            cluster.let_end()
            self._until("the run ended", cluster.has_ended)
            self._until("they stayed", lambda: not cluster.missing(), PATIENCE_SECONDS)
            cluster.drain()

    def story(self) -> Iterator[str]:
        """What was done and what came of it, for whoever must find out why it went wrong."""
        began = self.deeds[0].when if self.deeds else 0.0
        lately = self.deeds[-20:]
        for done in [each for each in self.deeds if each in lately or not self._is_recovered(each)]:
            over = "not over" if done.over is None else f"over {done.over - began:.1f} s"
            anew = "learned from anew" if self._is_recovered(done) else "NOT LEARNED FROM ANEW"
            yield f"{done.when - began:.1f} s: {' '.join(done.deed)}, {over}, {anew}"
        yield from self._cluster.told[-20:]
        yield from self._cluster.last_lines(5)

    def _strike(self, moment: Moment) -> None:
        names = [name for _, name in moment.deeds]
        self._until("they ran", lambda: all(self._cluster.pid(name) for name in names), 60)
        done = [self._do(deed, moment.frozen) for deed in moment.deeds]
        self.deeds.extend(done)
        later = time.monotonic() + moment.pause
        self._until("the pause was over", lambda: time.monotonic() > later)
        if moment.patient:
            self._recover(done)

    def _recover(self, deeds: list[Done]) -> None:
        """Wait until the run has got over these deeds."""
        for done in deeds:
            what = f"what came after {' '.join(done.deed)} was learned from"
            self._until("it was over", partial(_is_over, done))
            self._until(what, partial(self._is_recovered, done), PATIENCE_SECONDS)

    def _is_recovered(self, done: Done) -> bool:
        """Data made afterwards was trained on: of the victim, or through it."""
        if done.over is None:
            return False
        name = done.deed[1]
        return self._cluster.learned_since(done.over, name if name.startswith("actor") else None)

    def _until(
        self, what: str, condition: Callable[[], object], seconds: float = float("inf")
    ) -> None:
        """Look after the cluster and mend what is due, until the condition holds.

        Raises:
            TimeoutError: it does not in so many seconds, or in those of the whole run.
        """
        deadline = min(self._deadline, time.monotonic() + seconds)
        try:
            self._cluster.until(condition, deadline, self._restore)
        except TimeoutError as error:
            raise TimeoutError(f"waited until {what}: {error}") from None

    def _linked(self, program: Program, links: Links) -> Program:
        server, valkey = links.to(self._server), links.to(self._valkey)
        self._links[program.name] = server, valkey
        environment = {
            **program.environment,
            "PRONK_SERVER": f"127.0.0.1:{server.port}",
            "PRONK_REDIS_URL": f"redis://127.0.0.1:{valkey.port}/0",
        }
        return replace(program, environment=environment)

    def _do(self, deed: Deed, frozen: float) -> Done:
        what, name = deed
        now, pid = time.monotonic(), self._cluster.pid(name)
        assert pid is not None
        if what == "kill":
            self._frozen.pop(pid, None)
            signal_group(pid, signal.SIGKILL)
            return Done(deed, now, now, now)
        if what == "freeze":
            signal_group(pid, signal.SIGSTOP)
            until = self._frozen[pid] = max(now + frozen, self._frozen.get(pid, 0.0))
            return Done(deed, now, until)
        for link in self._of(name):
            link.cut()
            self._cut[link] = now + CUT_SECONDS
        return Done(deed, now, now + CUT_SECONDS)

    def _of(self, name: str) -> list[Link]:
        """Nobody is between the server's or the buffer's own ends: all others are cut off."""
        if mine := self._links.get(name):
            return list(mine)
        index = ("param-server", "valkey").index(name)
        return [pair[index] for pair in self._links.values()]

    def _restore(self, now: float) -> None:
        for pid in [pid for pid, until in self._frozen.items() if until <= now]:
            del self._frozen[pid]
            signal_group(pid, signal.SIGCONT)
        for link in [link for link, until in self._cut.items() if until <= now]:
            del self._cut[link]
            link.mend()
        for done in self.deeds:
            if done.over is None and done.until <= now:
                done.over = time.monotonic()


def _is_over(done: Done) -> bool:
    return done.over is not None
