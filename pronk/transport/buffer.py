"""The buffer between actors and a learner: one bounded Redis stream per run and policy.

Bounded by its producers and never trimmed: nothing is dropped silently while the server lives.
The server keeps nothing on disk; after it returns empty, whoever misses the stream or the group
makes it again.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from threading import Event

from redis import Redis

MAX_DELIVERIES = 3
"""An entry that was delivered so often and never acknowledged is dropped."""


@dataclass(frozen=True)
class BufferKeys:
    """Names of a buffer's keys."""

    run: str
    policy: str


@dataclass(frozen=True)
class BufferState:
    """How full a buffer is; entries being trained on are counted too."""

    length: int
    bytes: int


@dataclass(frozen=True)
class Entry:
    """An unroll as it lies in the buffer."""

    id: bytes
    payload: bytes
    deliveries: int
    """1 for a new one."""


def await_server(client: Redis, max_bytes: int, stop: Event) -> bool:
    """Wait until the server answers and see that it can hold the buffers.

    Args:
        client: from `pronk.transport.redis.connect`.
        max_bytes: of all buffers on the server together.
        stop: ends the wait.

    Returns:
        False where `stop` was set first.

    Raises:
        Misconfigured: max_bytes exceeds 70 % of the server's memory cap, the server evicts keys,
            or it refuses the credentials.
    """
    raise NotImplementedError


def buffer_state(client: Redis, keys: BufferKeys) -> BufferState | None:
    """How full the buffer is, or None while the server cannot be reached. Sets the metrics."""
    raise NotImplementedError


class Producer:
    """Adds unrolls to a buffer; one thread at a time.

    Attributes:
        blocked_seconds: time spent waiting for room or for the server.
        duplicates: entries that the buffer had seen already.
    """

    def __init__(self, client: Redis, keys: BufferKeys, max_entries: int, max_bytes: int) -> None:
        self.blocked_seconds = 0.0
        self.duplicates = 0

    def send(self, member: str, sequence: int, payload: bytes, stop: Event) -> bool:
        """Add an unroll, waiting for room and for the server.

        Args:
            member: who made it.
            sequence: rises from one unroll of the member to the next; an unroll whose sequence is
                not above the member's last one is a duplicate and is dropped.
            payload: the encoded unroll.
            stop: ends the wait.

        Returns:
            True once the buffer has it (a duplicate it has already), False where `stop` was set
            first.

        Raises:
            Misconfigured: the payload can never fit, or the server refuses the credentials.
        """
        raise NotImplementedError


class Consumer:
    """Takes unrolls out of a buffer, as one member of the group `learner`.

    `read` and `claim_from` belong to one thread, `ack` may be called from another.

    Attributes:
        dropped: entries dropped because they were delivered `MAX_DELIVERIES` times.
    """

    def __init__(self, client: Redis, keys: BufferKeys, name: str) -> None:
        self.dropped = 0

    def read(self, count: int, block_ms: int) -> list[Entry]:
        """Up to `count` entries, oldest first; waits up to `block_ms` (at most 1 s) for the first.

        While the server cannot be reached it waits as long and returns none.

        Raises:
            Misconfigured: the server refuses the credentials.
        """
        raise NotImplementedError

    def ack(self, ids: Sequence[bytes]) -> int:
        """Acknowledge and delete entries, atomically; returns how many were still there.

        While the server cannot be reached they are remembered and go with the next call.
        """
        raise NotImplementedError

    def names(self) -> list[str]:
        """The group's consumers, this one included if it has read."""
        raise NotImplementedError

    def claim_from(self, dead_names: Iterable[str]) -> int:
        """Take over everything that consumers now dead have left; the next reads return it."""
        raise NotImplementedError
