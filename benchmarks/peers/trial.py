"""One trial: a program that trains and tells, until it has shown what we want to know of it."""

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import psutil

_POLL_SECONDS = 0.1
_GONE_SECONDS = 20.0
_TOLD = b"PEER "


@dataclass(frozen=True)
class Point:
    """What a program told: seconds since it was started, steps consumed, score if it has one."""

    seconds: float
    steps: int
    score: float | None


@dataclass(frozen=True)
class Rules:
    """How long a trial is, in seconds.

    Attributes:
        limit: of all.
        warm_up: from the first steps consumed to the beginning of the window.
        window: in which the steady steps per second are measured.
        grace: from SIGTERM to SIGKILL.
    """

    limit: float = 1200.0
    warm_up: float = 10.0
    window: float = 60.0
    grace: float = 30.0


@dataclass
class Trial:
    """What came of a trial.

    Attributes:
        startup: seconds to the first steps consumed; None: there were none.
        rate: steady steps per second; None: the window was not reached.
        to_goal: seconds from the start to the goal, start-up included; the limit where it was not
            reached; None: there is no goal, or somebody ended the comparison.
        reached: whether the goal was reached.
        failed: the program's last lines, where it ended by itself.
    """

    workload: str
    peer: str
    variant: str
    startup: float | None = None
    rate: float | None = None
    to_goal: float | None = None
    reached: bool = False
    steps: int = 0
    best: float | None = None
    failed: str | None = None
    points: list[Point] = field(default_factory=list, repr=False)


def parse(line: bytes) -> Point | None:
    """What a line says, if it is one for us."""
    if not line.startswith(_TOLD):
        return None
    try:
        told = json.loads(line[len(_TOLD) :])
        score = told["score"]
        return Point(
            float(told["seconds"]), int(told["steps"]), None if score is None else float(score)
        )
    except (ValueError, KeyError, TypeError):
        return None


def take(trial: Trial, point: Point, rules: Rules, goal: float | None) -> bool:
    """Take in a point; whether all is known that the trial is for."""
    trial.points.append(point)
    trial.steps = point.steps
    if point.steps > 0 and trial.startup is None:
        trial.startup = point.seconds
    if point.score is not None and (trial.best is None or point.score > trial.best):
        trial.best = point.score
    there = goal is not None and point.score is not None and point.score >= goal
    if there and not trial.reached and point.seconds <= rules.limit:
        trial.reached, trial.to_goal = True, point.seconds
    window_is_over = _measure(trial, rules)
    return window_is_over and (goal is None or trial.reached)


def _measure(trial: Trial, rules: Rules) -> bool:
    """Steps per second from the first to the last point in the window; whether it is over.

    From point to point: peers tell after updates, which some make every few seconds only.
    """
    if trial.startup is None:
        return False
    begin = trial.startup + rules.warm_up
    inside = [p for p in trial.points if begin <= p.seconds <= begin + rules.window]
    if len(inside) > 1:
        first, last = inside[0], inside[-1]
        trial.rate = (last.steps - first.steps) / (last.seconds - first.seconds)
    return trial.points[-1].seconds >= begin + rules.window


def run(
    trial: Trial,
    command: list[str],
    rules: Rules,
    goal: float | None,
    folder: Path,
    tell: Callable[[Point], None] = lambda _: None,
    environment: dict[str, str] | None = None,
) -> Trial:
    """Run a program until all is known, it ends, or its time is over; nothing of it stays.

    Raises:
        KeyboardInterrupt: somebody ended the comparison; the program is gone then, too.
    """
    log = folder / "log"
    variables = os.environ | (environment or {})
    with log.open("wb") as output, adopting():
        strangers = set(descendants())
        began = time.time()
        process = subprocess.Popen(
            command,
            env=variables | {"PEER_STARTED": repr(began), "PYTHONUNBUFFERED": "1"},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            with log.open("rb") as lines:
                _watch(trial, process, lines, began, rules, goal, tell)
        finally:
            with deferring():
                end(process, rules.grace, strangers)
    if goal is not None and not trial.reached:
        trial.to_goal = rules.limit
    return trial


def _watch(
    trial: Trial,
    process: subprocess.Popen[bytes],
    lines: BinaryIO,
    began: float,
    rules: Rules,
    goal: float | None,
    tell: Callable[[Point], None],
) -> None:
    kept, tail = b"", b""
    while time.time() - began < rules.limit:
        ended = process.poll() is not None  # before the last look at what it wrote
        for part in lines:
            kept += part
            if not kept.endswith(b"\n"):
                break
            point, tail, kept = parse(kept), (tail + kept)[-2000:], b""
            if point is None:
                continue
            tell(point)
            if take(trial, point, rules, goal):
                return
        if ended:
            said = tail.decode(errors="replace")
            trial.failed = f"ended by itself with status {process.returncode}:\n{said}"
            return
        time.sleep(_POLL_SECONDS)


def end(process: subprocess.Popen[bytes], grace: float, strangers: set[psutil.Process]) -> None:
    """End a program and all that it started, in whatever session: SIGTERM, then SIGKILL.

    Args:
        process: leader of its own process group, in an `adopting` process.
        grace: seconds from one to the other.
        strangers: descendants of ours that are none of its.

    Raises:
        RuntimeError: something cannot be killed.
    """
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(grace)
    deadline = time.monotonic() + _GONE_SECONDS
    while left := [each for each in descendants() if each not in strangers]:
        if time.monotonic() > deadline:
            raise RuntimeError(f"cannot be killed: {left}")
        for each in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0)
        psutil.wait_procs(left, timeout=0.2)  # which also takes the adopted ones' statuses
    process.wait()


def descendants() -> list[psutil.Process]:
    """All processes below this one."""
    return psutil.Process().children(recursive=True)


@contextlib.contextmanager
def adopting() -> Iterator[None]:
    """Be the parent of whoever below loses theirs, where the system can do that (Linux).

    Ray and pronk put their processes into sessions of their own: who would look for them in the
    program's process group would leave them behind.
    """
    _subreaper(True)
    try:
        yield
    finally:
        _subreaper(False)


def _subreaper(wanted: bool) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(36, int(wanted))  # PR_SET_CHILD_SUBREAPER


@contextlib.contextmanager
def deferring() -> Iterator[None]:
    """Let a wish to end wait until this is done.

    Raises:
        KeyboardInterrupt: there was one meanwhile.
    """
    wishes: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {
        each: signal.signal(each, lambda number, _: wishes.append(number)) for each in numbers
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if wishes:
        raise KeyboardInterrupt
