"""From the buffer to validated unrolls, in a thread of its own."""

import queue
import threading
from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Self

from pronk.telemetry import logs, metrics
from pronk.transport.buffer import Consumer, Entry
from pronk.transport.heart import Heart
from pronk.transport.retry import Reminder
from pronk.wire import codec
from pronk.wire.errors import WireError
from pronk.wire.unroll import Unroll
from pronk.wire.validate import Expectation, check

_READ_ENTRIES = 8
_BLOCK_MS = 200


class Ingest:
    """Reads, decodes and validates while the learner trains; holds at most `ahead` unrolls.

    A bad unroll is refused under a counted reason and removed; it never reaches the learner.
    """

    def __init__(
        self, consumer: Consumer, expectation: Expectation, ahead: int, heart: Heart
    ) -> None:
        self._consumer = consumer
        self._expectation = expectation
        self._queue: queue.Queue[tuple[bytes, Unroll]] = queue.Queue(maxsize=ahead)
        self._heart = heart
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ingest", daemon=True)
        self.failure: BaseException | None = None
        self.refused = 0
        self._reminders = defaultdict[str, Reminder](Reminder)
        self._untold = Counter[str]()  # refused, by reason, since the last line about it

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End the thread; what it read and nobody took stays unacknowledged in the buffer."""
        self._stop.set()
        self._thread.join(timeout=5)

    def get(self, timeout: float) -> tuple[bytes, Unroll] | None:
        """The next entry id and unroll, or None after `timeout` seconds.

        Raises:
            RuntimeError: the thread has died; the cause is chained.
        """
        if self.failure is not None:
            raise RuntimeError("ingest has died") from self.failure
        try:
            return self._queue.get(timeout=timeout) if timeout else self._queue.get_nowait()
        except queue.Empty:
            return None

    def _run(self) -> None:
        try:
            with self._heart.at_work("ingest") as beat:
                while not self._stop.is_set():
                    beat()
                    for entry in self._consumer.read(_READ_ENTRIES, _BLOCK_MS):
                        self._take(entry, beat)
        except Exception as error:
            logs.get().exception("ingest_died")
            self.failure = error

    def _refuse(self, error: WireError) -> None:
        """Count it; a line per reason now and then, however many come."""
        self.refused += 1
        metrics.UNROLLS_REFUSED.labels(self._expectation.policy, error.reason).inc()
        self._untold[error.reason] += 1
        if self._reminders[error.reason].due():
            count = self._untold.pop(error.reason)
            logs.get().warning(
                "unroll_refused", reason=error.reason, detail=str(error), count=count
            )

    def _take(self, entry: Entry, beat: Callable[[], None]) -> None:
        beat()
        try:
            unroll = codec.decode(entry.payload)
            check(unroll, self._expectation)
        except WireError as error:
            self._refuse(error)
            self._consumer.ack([entry.id])
            return
        while not self._stop.is_set():
            try:
                self._queue.put((entry.id, unroll), timeout=0.2)
            except queue.Full:
                beat()
                continue
            return
