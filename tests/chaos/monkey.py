"""Breaks a real cluster at random, and repeatably: what is done to whom follows from a seed."""

import json
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from links import Link, Links

from pronk import config
from pronk.cli.cluster import choose_addresses, programs
from pronk.cli.process import Program
from pronk.cli.rundir import RunDirectory
from pronk.cli.supervisor import RestartRule, Supervisor
from pronk.config import Experiment

CUT_SECONDS = 20.0
FROZEN_SECONDS = (0.5, 15.0)
PAUSE_SECONDS = (0.2, 2.0)
PAIRS = 0.2
"""Share of moments at which two processes are hit at once."""
PATIENT = 0.5
"""Share of moments that wait until the run has got on."""
RESTART = RestartRule(first_seconds=0.2, longest_seconds=1.0, deaths=1_000_000)

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


@dataclass
class Timeline:
    """What was seen: (seconds, frames, updates, lag) of the learner's journal, and the deeds."""

    seen: list[tuple[float, int, int, float]] = field(default_factory=list)
    deeds: list[tuple[float, Deed]] = field(default_factory=list)

    @property
    def frames(self) -> int:
        """As last seen."""
        return self.seen[-1][1] if self.seen else 0


class Chaos:
    """A cluster whose members talk through links, and what is done to it."""

    def __init__(self, experiment: Experiment, folder: Path, links: Links) -> None:
        self.timeline = Timeline()
        self.record = folder / "trained.jsonl"
        self._directory = RunDirectory(folder / "run")
        self._directory.path.mkdir(parents=True)
        self._directory.write_config(experiment)
        addresses = choose_addresses()
        assert addresses.valkey_port is not None
        self._server = int(addresses.server.rpartition(":")[2])
        self._valkey = addresses.valkey_port
        self._links: dict[str, tuple[Link, ...]] = {}
        found = programs(experiment, self._directory, addresses)
        self.names = [program.name for program in found]
        self._supervisor = Supervisor([self._linked(each, links) for each in found], RESTART)
        self._undo: list[tuple[float, str, int | Link]] = []

    def run(self, moments: Iterator[Moment], enough_frames: int, seconds: float) -> None:
        """Let it learn, do every deed, and wait for the end of the run.

        Raises:
            TimeoutError: the run did not end in so many seconds.
        """
        deadline = time.monotonic() + seconds
        with self._supervisor:
            self._until(lambda: self.timeline.frames > 0, deadline)
            for moment in moments:
                before = self.timeline.frames
                for deed in moment.deeds:
                    self._do(deed, moment.frozen)
                resume = time.monotonic() + moment.pause
                self._until(partial(_passed, resume), deadline)
                if moment.patient:
                    self._until(partial(self._beyond, before), deadline)
                assert self.timeline.frames < enough_frames, "half the frames came too soon"
            self._until(lambda: (self._directory.path / "summary.json").exists(), deadline)
            self._until(lambda: not self._undo, deadline)
            self._supervisor.drain()

    def _beyond(self, frames: int) -> bool:
        return self.timeline.frames > frames

    def _linked(self, program: Program, links: Links) -> Program:
        if program.name in ("valkey", "param-server"):
            return program
        server, valkey = links.to(self._server), links.to(self._valkey)
        self._links[program.name] = server, valkey
        environment = {
            **program.environment,
            "PRONK_SERVER": f"127.0.0.1:{server.port}",
            "PRONK_REDIS_URL": f"redis://127.0.0.1:{valkey.port}/0",
            "RECORD": str(self.record),
        }
        command = program.command
        if program.name == "learner":
            recording = str(Path(__file__).with_name("recording_learner.py"))
            command = (sys.executable, recording, *command[command.index("learner") + 1 :])
        return replace(program, environment=environment, command=command)

    def _do(self, deed: Deed, frozen: float) -> None:
        what, name = deed
        now = time.monotonic()
        self.timeline.deeds.append((now, deed))
        pid = next(s.pid for s in self._supervisor.statuses() if s.name == name)
        if what == "cut":
            # Nobody is between the server's or the buffer's own ends: all others are cut off.
            mine = self._links.get(name)
            index = ("param-server", "valkey").index(name) if mine is None else 0
            for link in mine or [pair[index] for pair in self._links.values()]:
                link.cut()
                self._undo.append((now + CUT_SECONDS, "mend", link))
        elif pid is not None:
            with suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL if what == "kill" else signal.SIGSTOP)
            if what == "freeze":
                self._undo.append((now + frozen, "wake", pid))

    def _until(self, condition: Callable[[], bool], deadline: float) -> None:
        while not condition():
            now = time.monotonic()
            if now > deadline:
                raise TimeoutError(f"still at {self.timeline.frames} frames")
            self._supervisor.tick()
            self._restore(now)
            self._look(now)
            time.sleep(0.05)

    def _restore(self, now: float) -> None:
        due = [each for each in self._undo if each[0] <= now]
        self._undo = [each for each in self._undo if each[0] > now]
        for _, _, what in due:
            if isinstance(what, Link):
                what.mend()
            else:
                with suppress(ProcessLookupError):
                    os.killpg(what, signal.SIGCONT)

    def _look(self, now: float) -> None:
        with suppress(OSError, ValueError, IndexError):
            lines = (self._directory.path / "metrics.jsonl").read_bytes()[-4096:].splitlines()
            row = json.loads(lines[-1])
            seen = (row["frames"], row["updates"], row["lag"])
            if not self.timeline.seen or self.timeline.seen[-1][1:] != seen:
                self.timeline.seen.append((now, *seen))


def _passed(moment: float) -> bool:
    return time.monotonic() > moment


def surviving(record: Path) -> list[list[list[object]]]:
    """Slots of every update that the last weights rest on: what a restart took back is left out."""
    kept: list[dict[str, Any]] = []
    for text in record.read_text().splitlines():
        line = json.loads(text)
        while kept and kept[-1]["update"] >= line["update"]:
            kept.pop()
        kept.append(line)
    return [line["slots"] for line in kept]


def counted_twice(record: Path) -> int:
    """Slots of unrolls that two surviving updates were trained on."""
    counts = Counter(tuple(slot) for slots in surviving(record) for slot in slots)
    return sum(count > 1 for count in counts.values())


def experiment_of(frames: int) -> Experiment:
    """CartPole, with a checkpoint every five seconds."""
    path = Path(__file__).parents[2] / "configs" / "cartpole.yaml"
    changes = ("stop.return_mean=null", f"stop.frames={frames}", "learner.checkpoint_seconds=5")
    return config.load(path, changes)
