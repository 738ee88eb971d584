"""Sends unrolls of one policy to the buffer, on a thread of its own."""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace

from pronk.errors import Misconfigured
from pronk.transport.buffer import Producer
from pronk.transport.heart import Heart
from pronk.wire.codec import encode
from pronk.wire.errors import WireError
from pronk.wire.unroll import Unroll
from pronk_actor.rollout import size_of, split

QUEUE_UNROLLS = 2
"""Unrolls that may wait to be sent: more would only be older when they arrive."""
_COMPRESSIBLE = 2.0
"""Observations that shrink by this factor travel compressed."""


class Sender:
    """Encodes, numbers and sends; while the buffer is full, so is the queue.

    Attributes:
        error: why it gave up; `offer` raises it.
    """

    def __init__(
        self, producer: Producer, policy: str, heart: Heart, on_error: Callable[[], None]
    ) -> None:
        """Start to send unrolls of `policy`; `on_error` is called once if that cannot go on."""
        self.error: Exception | None = None
        self._producer = producer
        self._name = f"send-{policy}"
        self._heart = heart
        self._on_error = on_error
        self._waiting: deque[Unroll] = deque()
        self._busy = False
        self._changed = threading.Condition()
        self._closed = False
        self._give_up = threading.Event()
        self._member = ""
        self._sequence = 0
        self._compress: bool | None = None
        self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
        self._thread.start()

    def offer(self, unroll: Unroll, timeout: float) -> bool:
        """Queue an unroll; False when there was no room for `timeout` seconds.

        Raises:
            Misconfigured: unrolls of this experiment can never be sent.
        """
        with self._changed:
            self._changed.wait_for(self._has_room_or_failed, timeout)
            if self.error is not None:
                raise self.error
            if len(self._waiting) >= QUEUE_UNROLLS:
                return False
            self._waiting.append(unroll)
            self._changed.notify_all()
            return True

    def lost(self) -> bool:
        """Whether the buffer was emptied since it took the last unroll."""
        with self._changed:
            if self._waiting or self._busy or not self._sequence:
                return False
        return self._producer.forgot(self._member, self._sequence)

    def drain(self, last: Sequence[Unroll] = ()) -> None:
        """Take `last` beyond the bound, and end once all that waits was sent."""
        with self._changed:
            self._waiting.extend(last)
            self._closed = True
            self._changed.notify_all()

    @property
    def drained(self) -> bool:
        """Whether it has ended."""
        return not self._thread.is_alive()

    def close(self, grace: float = 0.0) -> int:
        """`drain` for up to `grace` seconds; return how many unrolls did not go."""
        self.drain()
        self._thread.join(grace)
        self._give_up.set()
        self._thread.join()
        return len(self._waiting) + self._busy

    def _has_room_or_failed(self) -> bool:
        return self.error is not None or len(self._waiting) < QUEUE_UNROLLS

    def _run(self) -> None:
        while not self._give_up.is_set():
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                if not self._waiting:
                    return
                unroll = self._waiting.popleft()
                self._busy = True
                self._changed.notify_all()
            try:
                with self._heart.at_work(self._name) as beat:
                    if not self._send(unroll, beat):
                        return
            except Exception as error:
                self._fail(error)
                return
            self._busy = False

    def _send(self, unroll: Unroll, beat: Callable[[], None]) -> bool:
        unroll.header = replace(unroll.header, sequence=self._sequence + 1)
        for part in split(unroll):
            self._sequence = part.header.sequence
            payload = self._encode(part)
            self._member = part.header.member
            sent = self._producer.send(self._member, self._sequence, payload, self._give_up, beat)
            if not sent:
                return False
        return True

    def _encode(self, part: Unroll) -> bytes:
        try:
            if self._compress is None:
                packed = encode(part, compress=True)
                self._compress = len(packed) * _COMPRESSIBLE <= size_of(part)
            return encode(part, compress=self._compress)
        except WireError as error:
            raise Misconfigured(
                f"algorithm.unroll_length: {part.length} steps of {part.slots} slots do not fit "
                f"into one message ({error}); make it shorter"
            ) from None

    def _fail(self, error: Exception) -> None:
        with self._changed:
            self.error = error
            self._changed.notify_all()
        self._on_error()
