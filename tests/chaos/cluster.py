"""A real cluster of processes that a test breaks, and what is seen of it meanwhile."""

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc
from record import Record, parsed

from pronk import config
from pronk.cli.cluster import choose_addresses, programs
from pronk.cli.process import Process, Program
from pronk.cli.rundir import RunDirectory
from pronk.cli.supervisor import RestartRule, Supervisor
from pronk.config import Experiment
from pronk.transport.channels import connect
from pronk.transport.cluster import status
from pronk.transport.settings import Settings, parse_address

CHECKPOINT_SECONDS = 5.0
RESTART = RestartRule(first_seconds=0.2, longest_seconds=1.0, deaths=1_000_000)
_POLL_SECONDS = 0.05


def experiment_of(*changes: str) -> Experiment:
    """CartPole, with a checkpoint every five seconds; `changes` say when it ends."""
    path = Path(__file__).parents[2] / "configs" / "cartpole.yaml"
    saved = f"learner.checkpoint_seconds={CHECKPOINT_SECONDS}"
    return config.load(path, ("stop.return_mean=null", saved, *changes))


class Timeline:
    """How far the learner's journal said that it was."""

    def __init__(self) -> None:
        self.frames = 0


class Cluster:
    """All programs of a run, kept alive as `pronk up` does; a context manager.

    Attributes:
        programs: by name; they may be changed before the cluster starts.
        timeline: what was seen of it.
        record: what its learners write down.
        told: the supervisor's lines.
    """

    def __init__(self, experiment: Experiment, folder: Path) -> None:
        self.timeline = Timeline()
        self.record = Record(folder / "trained.jsonl", CHECKPOINT_SECONDS)
        self.told: list[str] = []
        self._held = folder / "hold"
        self._held.touch()
        self._others: list[Process] = []
        self.directory = RunDirectory(folder / "run")
        self.directory.path.mkdir(parents=True, exist_ok=True)
        self.directory.write_config(experiment)
        self.addresses = choose_addresses()
        found = programs(experiment, self.directory, self.addresses)
        self.programs = {program.name: self._recording(program) for program in found}

    def __enter__(self) -> Self:
        self._supervisor = Supervisor(list(self.programs.values()), RESTART, self.told.append)
        self._supervisor.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._supervisor.__exit__(kind, error, at)
        for process in self._others:
            process.kill()

    def start_beside(self, name: str, alias: str) -> None:
        """Another process of a program, which nobody starts again; `alias` names its log."""
        log = self.directory.logs / f"{alias}.log"
        self._others.append(Process(replace(self.programs[name], name=alias, log=log)))

    def pid(self, name: str) -> int | None:
        """The process of a program, None while it is not running."""
        return next(s.pid for s in self._supervisor.statuses() if s.name == name)

    def send(self, number: signal.Signals, *names: str) -> None:
        """A signal to the process groups of programs, at once."""
        for pid in [self.pid(name) for name in names]:
            if pid is not None:
                signal_group(pid, number)

    def kill(self, *names: str) -> None:
        """SIGKILL, as a machine that goes away."""
        self.send(signal.SIGKILL, *names)

    def until(
        self,
        condition: Callable[[], object],
        deadline: float,
        meanwhile: Callable[[float], None] = lambda _: None,
    ) -> None:
        """Look after the cluster until the condition holds; `meanwhile` is told the time.

        Raises:
            TimeoutError: it does not by the deadline.
        """
        while not condition():
            now = time.monotonic()
            if now > deadline:
                raise TimeoutError(f"still at {self.timeline.frames} frames")
            self._supervisor.tick()
            meanwhile(now)
            self._look()
            time.sleep(_POLL_SECONDS)

    def drain(self) -> None:
        """Stop every program as `pronk up` does at the end."""
        self._supervisor.drain()

    def let_end(self) -> None:
        """From now on the run is over when its stop condition is met; until now it was not."""
        self._held.unlink()

    def has_ended(self) -> bool:
        """Whether the learner has left its summary."""
        return (self.directory.path / "summary.json").exists()

    def summary(self) -> dict[str, Any]:
        """What the run came to."""
        found: dict[str, Any] = json.loads((self.directory.path / "summary.json").read_text())
        return found

    def faults(self) -> list[str]:
        """What is wrong with the run that has ended, a line each."""
        self.record.look()
        return self.record.faults(self.summary())

    def learned_since(self, when: float, actor: str | None = None) -> bool:
        """Whether data of this actor (of any) was trained on that was made after the moment."""
        if actor is None:
            return self.record.learned_since(when)
        lives = {line["member"] for line in self.logged(actor, "joined")}
        return self.record.learned_since(when, lives)

    def missing(self) -> set[str]:
        """Learner and actors whose process the parameter server does not know, or none runs."""
        known = set[int]()
        settings = Settings(server=parse_address(self.addresses.server))
        with closing(connect(settings)) as channel, suppress(grpc.RpcError):
            known = {member.pid for member in status(channel).members if member.alive}
        members = {name for name in self.programs if name.startswith(("learner", "actor"))}
        return {name for name in members if self.pid(name) not in known}

    def logged(self, name: str, event: str) -> list[dict[str, Any]]:
        """The lines of a program's log that tell of an event."""
        path = self.directory.logs / f"{name}.log"
        lines = parsed(path.read_bytes()) if path.exists() else ()
        return [line for line in lines if isinstance(line, dict) and line.get("event") == event]

    def last_lines(self, count: int) -> Iterator[str]:
        """Of every program's log, for whoever must find out why."""
        for path in sorted(self.directory.logs.glob("*.log")):
            for text in path.read_text(errors="replace").splitlines()[-count:]:
                yield f"{path.stem}: {text[:200]}"

    def _recording(self, program: Program) -> Program:
        if program.name != "learner":
            return program
        script = str(Path(__file__).with_name("recording_learner.py"))
        options = program.command[program.command.index("learner") + 1 :]
        return replace(
            program,
            command=(sys.executable, script, *options),
            environment={**program.environment, "RECORD": str(self.record.path)},
        )

    def _look(self) -> None:
        self.record.look()
        with suppress(OSError, ValueError, IndexError):
            lines = (self.directory.path / "metrics.jsonl").read_bytes()[-4096:].splitlines()
            self.timeline.frames = json.loads(lines[-1])["frames"]


def signal_group(pid: int, number: signal.Signals) -> None:
    """A signal to a process group, if it is still there."""
    with suppress(ProcessLookupError):
        os.killpg(pid, number)
