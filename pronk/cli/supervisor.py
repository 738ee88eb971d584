"""Keeps processes running: restarts with backoff, gives up with a reason, drains in order."""

import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from types import TracebackType
from typing import Literal, Self

from pronk.cli.failure import Failed
from pronk.cli.process import Process, Program, describe_exit
from pronk.errors import Misconfigured

_MISCONFIGURED = 2
_POLL_SECONDS = 0.02

State = Literal["running", "restarting", "stopping", "stopped"]


@dataclass(frozen=True)
class RestartRule:
    """When a dead program is started again.

    The wait doubles with each death in a row and starts anew after a healthy while;
    `deaths` of them within `window_seconds` are too many.
    """

    first_seconds: float = 0.5
    longest_seconds: float = 30.0
    healthy_seconds: float = 30.0
    deaths: int = 5
    window_seconds: float = 60.0

    def wait(self, deaths_in_a_row: int) -> float:
        """Seconds to wait after so many deaths in a row (1 is the first)."""
        return min(self.longest_seconds, self.first_seconds * 2.0 ** min(deaths_in_a_row - 1, 30))


@dataclass
class _Child:
    program: Program
    process: Process | None = None
    state: State = "running"
    started: float = 0.0
    restart_at: float = 0.0
    in_a_row: int = 0
    restarts: int = 0
    deaths: deque[float] = field(default_factory=deque)


@dataclass(frozen=True)
class ChildStatus:
    """What a person wants to know of a child."""

    name: str
    state: State
    pid: int | None
    restarts: int


class Supervisor:
    """Runs programs until told otherwise; leaving its context kills what still runs.

    Everything happens in the caller's thread (on Linux the children die with the thread that
    started them): call `tick` a few times a second.
    """

    def __init__(
        self,
        programs: Sequence[Program],
        rule: RestartRule | None = None,
        tell: Callable[[str], None] = lambda _: None,
    ) -> None:
        """`tell` gets one line for every event worth a person's attention."""
        self._children = [_Child(program) for program in programs]
        self._rule = rule or RestartRule()
        self._tell = tell

    def __enter__(self) -> Self:
        """Start every program, in order."""
        try:
            for child in self._children:
                self._start(child)
        except BaseException:
            self._kill(self._children)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        """Kill what still runs."""
        self._kill(self._children)

    def tick(self) -> None:
        """Look after the children once: notice deaths, restart what is due.

        Raises:
            Misconfigured: a child ended with status 2; the message is its last line.
            Failed: a child died too often.
        """
        now = time.monotonic()
        for child in self._children:
            if child.process is None:
                if now >= child.restart_at:
                    child.restarts += 1
                    self._start(child)
                continue
            status = child.process.poll()
            if status is not None:
                self._died(child, status, now)
            elif now - child.started >= self._rule.healthy_seconds:
                child.in_a_row = 0
                child.state = "running"

    def statuses(self) -> list[ChildStatus]:
        """Every child as it was at the last tick."""
        return [
            ChildStatus(
                child.program.name,
                child.state,
                child.process.pid if child.process else None,
                child.restarts,
            )
            for child in self._children
        ]

    def drain(self, meanwhile: Callable[[], bool] = lambda: False) -> None:
        """Stop all programs, the highest stage first, and wait for each stage to end.

        A program that does not end in its grace period is killed. `meanwhile` is called many times
        a second; once it returns True, every program is killed.
        """
        by_stage = sorted(self._children, key=lambda child: -child.program.stage)
        for _, group in groupby(by_stage, key=lambda child: child.program.stage):
            self._stop(list(group), meanwhile)

    def _start(self, child: _Child) -> None:
        child.process = Process(child.program)
        child.started = time.monotonic()
        child.state = "running"

    def _died(self, child: _Child, status: int, now: float) -> None:
        name, process = child.program.name, child.process
        assert process is not None  # noqa: S101 - for the type checker
        child.process = None
        if status == _MISCONFIGURED:
            child.state = "stopped"
            raise Misconfigured(process.last_line() or f"{name} {describe_exit(status)}")
        child.deaths.append(now)
        while now - child.deaths[0] > self._rule.window_seconds:
            child.deaths.popleft()
        if len(child.deaths) >= self._rule.deaths:
            child.state = "stopped"
            raise Failed(self._too_often(child, status, process.last_line()))
        child.in_a_row += 1
        wait = self._rule.wait(child.in_a_row)
        child.restart_at = now + wait
        child.state = "restarting"
        self._tell(f"{name} {describe_exit(status)}; starting it again in {wait:g} s")

    def _too_often(self, child: _Child, status: int, last_line: str) -> str:
        said = f": {last_line}" if last_line else ""
        return (
            f"{child.program.name} {describe_exit(status)}{said} "
            f"({len(child.deaths)} deaths within {self._rule.window_seconds:g} s; "
            f"see {child.program.log})"
        )

    def _stop(self, children: Iterable[_Child], meanwhile: Callable[[], bool]) -> None:
        alive = []
        for child in children:
            if child.process is None or child.process.poll() is not None:
                child.state = "stopped"
                continue
            child.process.terminate()
            child.state = "stopping"
            alive.append(child)
        asked = time.monotonic()
        while alive and not meanwhile():
            alive = [child for child in alive if not self._ended(child, asked)]
            time.sleep(_POLL_SECONDS)
        self._kill(alive)

    def _ended(self, child: _Child, asked: float) -> bool:
        assert child.process is not None  # noqa: S101
        if child.process.poll() is not None:
            child.state = "stopped"
            return True
        if time.monotonic() - asked < child.program.grace_seconds:
            return False
        self._tell(f"{child.program.name} did not stop within {child.program.grace_seconds:g} s")
        self._kill([child])
        return True

    def _kill(self, children: Iterable[_Child]) -> None:
        for child in children:
            if child.process is not None:
                child.process.kill()
                child.process = None
            child.state = "stopped"
