"""A buffer as the server holds it: its keys, how full it is, whether the server can hold it."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from redis import Redis
from redis.exceptions import NoScriptError, RedisError

from pronk.errors import Misconfigured
from pronk.telemetry import logs, metrics
from pronk.transport.redis import raise_unless_passing
from pronk.transport.retry import Reminder, details_of, until_answered

MEMORY_SHARE = 0.7
"""Share of the server's memory cap that all buffers may fill."""


@dataclass(frozen=True)
class BufferKeys:
    """Names of a buffer's keys."""

    run: str
    policy: str

    @property
    def stream(self) -> str:
        """The entries."""
        return f"pronk:{self.run}:{self.policy}:unrolls"

    @property
    def sizes(self) -> str:
        """Bytes of every entry by id, and their sum as `total`."""
        return f"pronk:{self.run}:{self.policy}:sizes"

    def seen(self, member: str) -> str:
        """The newest sequence of a member."""
        return f"pronk:{self.run}:{self.policy}:seen:{member}"


@dataclass(frozen=True)
class BufferState:
    """How full a buffer is; entries being trained on are counted too."""

    length: int
    bytes: int


def await_server(
    client: Redis,
    max_bytes: int,
    stop: threading.Event,
    beat: Callable[[], None] = lambda: None,
) -> bool:
    """Wait until the server answers and see that it can hold the buffers.

    Args:
        client: from `pronk.transport.redis.connect`.
        max_bytes: of all buffers on the server together.
        stop: ends the wait.
        beat: called before every attempt; it tells liveness that this is a wait, not a deadlock.

    Returns:
        False where `stop` was set first.

    Raises:
        Misconfigured: max_bytes exceeds 70 % of the server's memory cap, the server evicts keys,
            or it refuses the credentials.
    """

    def ask() -> dict[str, Any]:
        beat()
        memory: dict[str, Any] = client.info("memory")
        return memory

    memory = until_answered(ask, stop, "the buffer", again=passes)
    if memory is None:
        return False
    cap, policy = memory["maxmemory"], memory["maxmemory_policy"]
    if cap and max_bytes > MEMORY_SHARE * cap:
        raise Misconfigured(
            f"buffer.max_bytes: {max_bytes} bytes in all exceed {MEMORY_SHARE:.0%} of Redis' "
            f"memory cap ({cap} bytes); lower it, or raise maxmemory"
        )
    if cap and policy != "noeviction":
        raise Misconfigured(
            f"Redis may evict unrolls (maxmemory-policy {policy}): set it to noeviction"
        )
    return True


def buffer_state(client: Redis, keys: BufferKeys) -> BufferState | None:
    """How full the buffer is, or None while the server cannot be reached. Sets the metrics."""
    try:
        state = read_state(client, keys)
    except RedisError as error:
        raise_unless_passing(error)
        return None
    metrics.BUFFER_LENGTH.labels(keys.policy).set(state.length)
    metrics.BUFFER_BYTES.labels(keys.policy).set(state.bytes)
    return state


def tell_server(client: Redis) -> bool:
    """Set the metrics of the server; whether it answers."""
    try:
        memory: dict[str, Any] = client.info("memory")
    except RedisError as error:
        raise_unless_passing(error)
        metrics.REDIS_UP.set(0)
        return False
    metrics.REDIS_UP.set(1)
    metrics.REDIS_MEMORY_BYTES.set(memory["used_memory"])
    metrics.REDIS_MEMORY_CAP_BYTES.set(memory["maxmemory"])
    return True


def read_state(client: Redis, keys: BufferKeys) -> BufferState:
    """How full the buffer is, in one round trip.

    Raises:
        redis.exceptions.RedisError: it cannot be told.
    """
    pipeline = client.pipeline(transaction=False)
    pipeline.xlen(keys.stream)
    pipeline.hget(keys.sizes, "total")
    length, total = pipeline.execute()
    # Whatever hands other than ours did to the stream, an empty buffer has no bytes.
    return BufferState(length, number(total) if length else 0)


def number(text: bytes | None) -> int:
    """What a key of the buffer holds; 0 without it and for what is no number: actors write it."""
    return int(text) if text is not None and len(text) <= 15 and text.isdigit() else 0


def outlast(error: RedisError, reminder: Reminder) -> None:
    """Take note of a failure that passes in time, with a log line now and then.

    Raises:
        Misconfigured: the server refuses the credentials.
        redis.exceptions.RedisError: the failure, which waiting does not mend.
    """
    raise_unless_passing(error)
    if reminder.due():
        unprepared = isinstance(error, NoScriptError)
        why = "no learner has prepared it yet" if unprepared else details_of(error)
        logs.get().warning("waiting", waiting_for="the buffer", why=why)


def passes(error: BaseException) -> bool:
    """Whether a failure passes in time, for `until_answered`.

    Raises:
        Misconfigured: the server refuses the credentials.
        redis.exceptions.RedisError: the failure, which waiting does not mend.
    """
    if isinstance(error, RedisError):
        raise_unless_passing(error)
        return True
    return False
