"""Whether the threads of a process come by: what liveness answers."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial


class Heart:
    """When each thread that has something to do last came by.

    A thread is named by what it does. Nothing is expected of one that has not begun, has nothing to
    do or has ended; how it ended is told by other means.
    """

    def __init__(self, limit: float = 60.0) -> None:
        """Expect every thread at least every `limit` seconds."""
        self._limit = limit
        self._beats: dict[str, float] = {}

    def beat(self, who: str) -> None:
        """A thread comes by: at least every few seconds, waits for neighbours included."""
        self._beats[who] = time.monotonic()

    @contextmanager
    def at_work(self, who: str) -> Iterator[Callable[[], None]]:
        """A thread does something that must end, and says by what it is given that it goes on."""
        self.beat(who)
        try:
            yield partial(self.beat, who)
        finally:
            del self._beats[who]

    def late(self) -> list[str]:
        """Who has not come by for longer than the limit."""
        now = time.monotonic()
        return [who for who, last in self._beats.copy().items() if now - last > self._limit]
