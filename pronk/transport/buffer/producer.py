"""The actors' side of the buffer."""

import random
import threading
import time
from collections.abc import Callable
from typing import Any

from redis import Redis
from redis.exceptions import RedisError

from pronk.errors import Misconfigured
from pronk.telemetry import metrics
from pronk.transport.buffer import scripts
from pronk.transport.buffer.server import BufferKeys, number, outlast, read_state
from pronk.transport.redis import raise_unless_passing
from pronk.transport.retry import Reminder

_SEEN_SECONDS = 24 * 3600
_FIRST_DELAY, _LONGEST_DELAY, _GROWTH = 0.001, 0.05, 1.5
"""Seconds between two looks at a full buffer, and what they grow by."""
_LONGEST_OUTAGE_DELAY = 1.0


class Producer:
    """Adds unrolls to a buffer; one thread at a time.

    Attributes:
        blocked_seconds: time spent waiting for room or for the server.
        duplicates: entries that the buffer had seen already.
    """

    def __init__(self, client: Redis, keys: BufferKeys, max_entries: int, max_bytes: int) -> None:
        """Nothing is sent yet."""
        self.blocked_seconds = 0.0
        self.duplicates = 0
        self._client = client
        self._keys = keys
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._reminder = Reminder()
        metrics.BUFFER_CAPACITY.labels(keys.policy).set(max_entries)
        metrics.BUFFER_CAPACITY_BYTES.labels(keys.policy).set(max_bytes)

    def send(
        self,
        member: str,
        sequence: int,
        payload: bytes,
        stop: threading.Event,
        beat: Callable[[], None] = lambda: None,
    ) -> bool:
        """Add an unroll, waiting for room and for the server.

        A full buffer is the steady state: its length is polled, and the payload shipped only when
        there is room. It is tried once even where `stop` is set, so that a leaving actor can flush.

        Args:
            member: who made it.
            sequence: rises from one unroll of the member to the next; an unroll whose sequence is
                not above the member's last one is a duplicate and is dropped.
            payload: the encoded unroll.
            stop: ends the wait.
            beat: feeds liveness; called before every attempt.

        Returns:
            True once the buffer has it (a duplicate it has already), False where `stop` was set
            first.

        Raises:
            Misconfigured: the payload can never fit, or the server refuses the credentials.
        """
        if len(payload) > self._max_bytes:
            raise Misconfigured(
                f"an unroll of {len(payload)} bytes never fits: raise buffer.max_bytes "
                f"({self._max_bytes}), or lower algorithm.unroll_length"
            )
        delay, lost_contact = _FIRST_DELAY, False
        while True:
            beat()
            began, longest = time.monotonic(), _LONGEST_DELAY
            try:
                outcome = self._try(member, sequence, payload)
            except RedisError as error:
                outlast(error, self._reminder)
                outcome, lost_contact, longest = scripts.FULL, True, _LONGEST_OUTAGE_DELAY
            if outcome != scripts.FULL:
                self._count(outcome, lost_contact)
                return True
            # Jitter keeps producers that were blocked together from asking together.
            stopped = stop.wait(random.uniform(0.5, 1.0) * delay)  # noqa: S311
            self.blocked_seconds += time.monotonic() - began
            if stopped:
                return False
            delay = min(delay * _GROWTH, longest)

    def forgot(self, member: str, sequence: int) -> bool:
        """Whether the server was emptied since it took that unroll: nobody may ever train on it.

        False while the server cannot be reached.

        Raises:
            Misconfigured: the server refuses the credentials.
        """
        try:
            seen: Any = self._client.get(self._keys.seen(member))
        except RedisError as error:
            raise_unless_passing(error)
            return False
        return number(seen) < sequence

    def _try(self, member: str, sequence: int, payload: bytes) -> int:
        state = read_state(self._client, self._keys)
        if state.length >= self._max_entries:
            return scripts.FULL
        if state.bytes + len(payload) > self._max_bytes:
            return scripts.FULL
        with metrics.BUFFER_ADD_SECONDS.labels(self._keys.policy).time():
            return self._add(member, sequence, payload)

    def _add(self, member: str, sequence: int, payload: bytes) -> int:
        # By its name only: learners, and not actors, tell the server what scripts there are.
        keys = (self._keys.stream, self._keys.sizes, self._keys.seen(member))
        limits = (self._max_entries, self._max_bytes, _SEEN_SECONDS)
        added: Any = self._client.evalsha(
            scripts.ADD_NAME, len(keys), *keys, sequence, *limits, payload
        )
        return int(added)

    def _count(self, outcome: int, lost_contact: bool) -> None:
        # After a lost answer, what the buffer has seen is this very unroll.
        if outcome == scripts.SEEN and not lost_contact:
            self.duplicates += 1
            metrics.UNROLLS_DUPLICATE.labels(self._keys.policy).inc()
        else:
            metrics.UNROLLS_SENT.labels(self._keys.policy).inc()
