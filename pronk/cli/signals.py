"""Signals that ask a supervisor to end."""

import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Self

from pronk.stopping import Setter

_SAME_SECONDS = 0.5
_ASKING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Signals:
    """Counts requests to end, within its context.

    Attributes:
        stop: set by the first one, a moment later.
        number: of the first signal; None while there was none.
        hurried: a second one came a moment later. A closing terminal, `timeout` and others send
            theirs twice at once; that is no second thought.
    """

    def __init__(self) -> None:
        self.stop = threading.Event()
        self.number: int | None = None
        self.hurried = False
        self._first = 0.0

    def __enter__(self) -> Self:
        """Listen. Who ignores hang-ups, by `nohup`, goes on doing so."""
        self._setter = Setter(self.stop)
        deaf = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        asking = [number for number in _ASKING if not (deaf and number == signal.SIGHUP)]
        self._before = {number: signal.signal(number, self._handle) for number in asking}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        """Put back what was."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._setter.close()

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.number is None:
            self.number, self._first = number, now
            self._setter.set()
        elif number != signal.SIGHUP and now - self._first >= _SAME_SECONDS:
            self.hurried = True
