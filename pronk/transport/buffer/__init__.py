"""The buffer between actors and a learner: one bounded Redis stream per run and policy.

Bounded by its producers and never trimmed: nothing is dropped silently while the server lives.
The server keeps nothing on disk; after it returns empty, whoever misses the stream or the group
makes it again.
"""

from pronk.transport.buffer.consumer import MAX_DELIVERIES, Consumer, Entry
from pronk.transport.buffer.producer import Producer
from pronk.transport.buffer.server import (
    MEMORY_SHARE,
    BufferKeys,
    BufferState,
    await_server,
    buffer_state,
    passes,
    tell_server,
)

__all__ = [
    "MAX_DELIVERIES",
    "MEMORY_SHARE",
    "BufferKeys",
    "BufferState",
    "Consumer",
    "Entry",
    "Producer",
    "await_server",
    "buffer_state",
    "passes",
    "tell_server",
]
