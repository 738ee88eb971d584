"""Ends a process whose environment does not come back: nothing else can interrupt it."""

import faulthandler
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from pronk.envs.failures import Failure, Tell

_POLLS = 8
"""Looks at a step before it is overdue."""


class Watchdog:
    """Watches the blocks under it, each for so many seconds, from a thread of its own.

    It counts looks and reads no clock, so that a process that was stopped for a minute and goes on
    is not taken for one that hangs. Native code that hangs without letting any thread run cannot be
    told of: after twice the time the process just ends, with status 1.

    Attributes:
        at: the slot that is being stepped; a new one has all the time again.
    """

    def __init__(self, seconds: float, overdue: Callable[[int | None], None]) -> None:
        """Get ready; `overdue` is called, once, with the slot that did not come back."""
        self.at: int | None = None
        self._turns = 0  # odd within a block
        self._seconds = seconds
        self._overdue = overdue
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)

    def start(self) -> None:
        """Begin to watch, if that was not done before."""
        if not self._thread.ident:
            self._nowhere = Path(os.devnull).open("wb")  # noqa: SIM115 - closed by `close`
            self._last_resort()
            self._thread.start()

    def __enter__(self) -> Self:
        """A block begins."""
        self._turns += 1
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        """It came back."""
        self._turns += 1

    def close(self) -> None:
        """Watch no more."""
        self._closed.set()
        if self._thread.ident:
            self._thread.join()
            faulthandler.cancel_dump_traceback_later()
            self._nowhere.close()

    def _run(self) -> None:
        seen, looks = (0, self.at), 0
        while not self._closed.wait(self._seconds / _POLLS):
            self._last_resort()
            now = (self._turns, self.at)
            looks = looks + 1 if now == seen and now[0] % 2 else 0
            seen = now
            if looks >= _POLLS:
                self._overdue(self.at)
                return

    def _last_resort(self) -> None:
        """End the process if this thread, like all others, does not get to run any more."""
        faulthandler.dump_traceback_later(2 * self._seconds, exit=True, file=self._nowhere)


def ending(environment: str, seconds: float, tell: Tell) -> Callable[[int | None], None]:
    """What to do about a hang in this very process: tell, say one line, end with status 1."""

    def end(slot: int | None) -> None:
        said = f"a step took longer than {seconds:g} s (env.step_seconds)"
        where = "" if slot is None else f" (slot {slot})"
        tell(Failure(slot, "hang", said))
        print(f"pronk: environment {environment}{where} hangs: {said}", file=sys.stderr, flush=True)
        os._exit(1)

    return end
