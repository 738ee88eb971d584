"""Signals that ask a supervisor to end."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Self

_ASKING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Signals:
    """Counts requests to end, within its context.

    Attributes:
        stop: set by the first one.
        number: of the first signal; None while there was none.
        hurried: a second one came.
    """

    def __init__(self) -> None:
        self.stop = threading.Event()
        self.number: int | None = None
        self.hurried = False

    def __enter__(self) -> Self:
        """Listen."""
        self._before = {number: signal.signal(number, self._handle) for number in _ASKING}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        """Put back what was."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @property
    def closed_terminal(self) -> bool:
        """The terminal went away: nobody can read what is printed."""
        return self.number == signal.SIGHUP

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if self.number is not None:
            self.hurried = True
            return
        self.number = number
        self.stop.set()
