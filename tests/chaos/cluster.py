"""A real cluster of processes that a test breaks, and what is seen of it meanwhile."""

import json
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from pronk import config
from pronk.cli.cluster import choose_addresses, programs
from pronk.cli.process import Process, Program
from pronk.cli.rundir import RunDirectory
from pronk.cli.supervisor import RestartRule, Supervisor
from pronk.config import Experiment

CHECKPOINT_SECONDS = 5.0
SLACK_SECONDS = 4.0
"""The journal is looked at once a second, and a checkpoint takes a while to be written."""
RESTART = RestartRule(first_seconds=0.2, longest_seconds=1.0, deaths=1_000_000)
_POLL_SECONDS = 0.05


def experiment_of(*changes: str) -> Experiment:
    """CartPole, with a checkpoint every five seconds; `changes` say when it ends."""
    path = Path(__file__).parents[2] / "configs" / "cartpole.yaml"
    saved = f"learner.checkpoint_seconds={CHECKPOINT_SECONDS}"
    return config.load(path, ("stop.return_mean=null", saved, *changes))


class Seen(NamedTuple):
    """A row of the learner's journal, and when it was seen; `seconds` are those of learning."""

    when: float
    seconds: float
    frames: int
    updates: int
    lag: float


class Timeline:
    """The rows of the learner's journal as they were seen."""

    def __init__(self) -> None:
        self.rows: list[Seen] = []

    def see(self, row: Seen) -> None:
        """Take a row, unless it is the last one again."""
        if not self.rows or self.rows[-1].seconds != row.seconds:
            self.rows.append(row)

    @property
    def frames(self) -> int:
        """As last seen."""
        return self.rows[-1].frames if self.rows else 0

    def furthest_back(self) -> float:
        """Seconds of learning that a recovery took back at most."""
        pairs = zip(self.rows, self.rows[1:], strict=False)
        back = [old.seconds - new.seconds for old, new in pairs if new.frames < old.frames]
        return max(back, default=0.0)

    def learned_anew(self, when: float) -> bool:
        """Whether an update after the moment was trained on data of a version after it."""
        before = max((row.updates for row in self.rows if row.when <= when), default=0)
        return any(row.when > when and row.updates - row.lag > before for row in self.rows)


class Cluster:
    """All programs of a run, kept alive as `pronk up` does; a context manager.

    Attributes:
        programs: by name; they may be changed before the cluster starts.
        timeline: what was seen of it.
        record: the file in which every update's slots are written down.
        told: the supervisor's lines.
    """

    def __init__(self, experiment: Experiment, folder: Path) -> None:
        self.timeline = Timeline()
        self.record = folder / "trained.jsonl"
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
            self._look(now)
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

    def logged(self, name: str, event: str) -> list[dict[str, Any]]:
        """The lines of a program's log that tell of an event."""
        lines = []
        for text in (self.directory.logs / f"{name}.log").read_text().splitlines():
            with suppress(ValueError):
                lines.append(json.loads(text))
        return [line for line in lines if line.get("event") == event]

    def _recording(self, program: Program) -> Program:
        if program.name != "learner":
            return program
        script = str(Path(__file__).with_name("recording_learner.py"))
        options = program.command[program.command.index("learner") + 1 :]
        return replace(
            program,
            command=(sys.executable, script, *options),
            environment={**program.environment, "RECORD": str(self.record)},
        )

    def _look(self, now: float) -> None:
        with suppress(OSError, ValueError, IndexError):
            lines = (self.directory.path / "metrics.jsonl").read_bytes()[-4096:].splitlines()
            row = json.loads(lines[-1])
            named = (row[name] for name in ("seconds", "frames", "updates", "lag"))
            self.timeline.see(Seen(now, *named))


def signal_group(pid: int, number: signal.Signals) -> None:
    """A signal to a process group, if it is still there."""
    with suppress(ProcessLookupError):
        os.killpg(pid, number)


def surviving(record: Path) -> list[list[list[object]]]:
    """Slots of every update that the last weights rest on: what a restart took back is left out."""
    kept: list[dict[str, Any]] = []
    for text in record.read_text().splitlines():
        line = json.loads(text)
        if kept and kept[-1]["epoch"] > line["epoch"]:
            continue  # its learner woke beside a successor, which goes on without it
        while kept and kept[-1]["update"] >= line["update"]:
            kept.pop()
        kept.append(line)
    return [line["slots"] for line in kept]


def counted_twice(record: Path) -> int:
    """Slots of unrolls that two surviving updates were trained on."""
    counts = Counter(tuple(slot) for slots in surviving(record) for slot in slots)
    return sum(count > 1 for count in counts.values())
