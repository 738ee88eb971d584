"""The learner's side of the buffer."""

import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from redis import Redis
from redis.exceptions import RedisError, ResponseError

from pronk.telemetry import logs, metrics
from pronk.transport.buffer import scripts
from pronk.transport.buffer.server import BufferKeys, outlast
from pronk.transport.retry import Reminder

MAX_DELIVERIES = 3
"""An entry that was delivered so often and never acknowledged is dropped."""

_GROUP = "learner"
_LONGEST_BLOCK_MS = 1000
_CLAIM_SECONDS = 10.0
_MEND_SECONDS = 10.0
_PAGE = 256


@dataclass(frozen=True)
class Entry:
    """An unroll as it lies in the buffer."""

    id: bytes
    payload: bytes = field(repr=False)
    deliveries: int
    """1 for a new one."""


class Consumer:
    """Takes unrolls out of a buffer, as one member of the group `learner`.

    `read` and `claim_from` belong to one thread, `ack` may be called from another.

    Attributes:
        dropped: entries dropped because they were delivered `MAX_DELIVERIES` times.
        claimed: entries taken over from dead consumers.
    """

    def __init__(self, client: Redis, keys: BufferKeys, name: str) -> None:
        """Nothing is sent yet."""
        self.dropped = 0
        self.claimed = 0
        self._client = client
        self._keys = keys
        self._name = name
        self._acknowledge = client.register_script(scripts.ACKNOWLEDGE)
        self._read_again = client.register_script(scripts.REREAD)
        self._claim = client.register_script(scripts.CLAIM)
        self._mend = client.register_script(scripts.MEND)
        self._reminder = Reminder()
        self._lock = threading.Lock()
        self._held: set[bytes] = set()  # delivered to us and not acknowledged
        self._unacknowledged: list[bytes] = []  # to acknowledge once the server is back
        self._dead: list[str] = []
        self._next_claim = 0.0
        self._next_mend = 0.0
        self._incomplete = True  # the server may have given us entries that never arrived
        self._grouped = False

    def read(self, count: int, block_ms: int) -> list[Entry]:
        """Up to `count` entries, oldest first; waits up to `block_ms` (at most 1 s) for the first.

        While the server cannot be reached it waits as long and returns none.

        Raises:
            Misconfigured: the server refuses the credentials.
        """
        block_ms = min(block_ms, _LONGEST_BLOCK_MS)
        try:
            self._flush()
            self._make_group()
            self._claim_dead()
            entries = self._reread(count) or self._read_new(count, block_ms)
            if not entries:
                self._see_that_actors_can_add()
            return entries
        except RedisError as error:
            if _is_missing(error):
                self._grouped = False
                return []
            outlast(error, self._reminder)
            self._incomplete = True
            time.sleep(block_ms / 1000)
        return []

    def ack(self, ids: Sequence[bytes]) -> int:
        """Acknowledge and delete entries, atomically; returns how many were there and ours.

        What a successor has claimed is its own: it is neither acknowledged nor deleted.
        While the server cannot be reached they are remembered and go with the next call.
        """
        with self._lock:
            self._unacknowledged.extend(ids)
        try:
            return self._flush()
        except RedisError as error:
            outlast(error, self._reminder)
            return 0

    def names(self) -> list[str]:
        """The group's consumers, this one included if it has read.

        Raises:
            redis.exceptions.RedisError: the server cannot be reached.
        """
        try:
            consumers = self._client.xinfo_consumers(self._keys.stream, _GROUP)
        except ResponseError as error:
            if _is_missing(error):
                return []
            raise
        return [consumer["name"].decode() for consumer in consumers]

    def claim_from(self, dead_names: Iterable[str]) -> None:
        """Take over what consumers now dead have left: the next reads return it first.

        It is looked for again every 10 s, since a stopped process may wake, take entries and only
        then learn that it is dead.
        """
        self._dead = [name for name in dead_names if name != self._name]
        self._next_claim = 0.0

    def _make_group(self) -> None:
        if self._grouped:
            return
        try:
            self._client.xgroup_create(self._keys.stream, _GROUP, id="0", mkstream=True)
        except ResponseError as error:
            if not str(error).startswith("BUSYGROUP"):
                raise
        self._client.script_load(scripts.ADD)
        self._grouped = True

    def _see_that_actors_can_add(self) -> None:
        """When nothing comes: it may be that nobody can add, and only we may mend that."""
        if time.monotonic() < self._next_mend:
            return
        self._client.script_load(scripts.ADD)  # somebody may have flushed the server's scripts
        if self._mend(keys=[self._keys.stream, self._keys.sizes], args=[_GROUP]):
            logs.get().warning("made the stream anew: somebody had used up its ids")
        self._next_mend = time.monotonic() + _MEND_SECONDS

    def _claim_dead(self) -> None:
        if not self._dead or time.monotonic() < self._next_claim:
            return
        claimed = self._claim(keys=[self._keys.stream], args=[_GROUP, self._name, *self._dead])
        self._next_claim = time.monotonic() + _CLAIM_SECONDS
        if claimed:
            logs.get().info("claimed what dead learners left", entries=claimed)
            self.claimed += claimed
            metrics.UNROLLS_CLAIMED.labels(self._keys.policy).inc(claimed)
            self._incomplete = True

    def _reread(self, count: int) -> list[Entry]:
        """Entries that are ours by the server's account and never arrived; drops poisoned ones."""
        after = "-"
        while self._incomplete:
            page = self._pending(after)
            with self._lock:
                missing = {id_: times for id_, times in page.items() if id_ not in self._held}
            self._drop([id_ for id_, times in missing.items() if times >= MAX_DELIVERIES])
            wanted = [(id_, times) for id_, times in missing.items() if times < MAX_DELIVERIES]
            if wanted:
                return self._fetch(dict(wanted[:count]))
            if len(page) < _PAGE:
                self._incomplete = False
            else:
                after = f"({list(page)[-1].decode()}"
        return []

    def _pending(self, after: str) -> dict[bytes, int]:
        """Some of the entries that are ours by the server's account: id → times delivered."""
        page: Any = self._client.xpending_range(
            self._keys.stream, _GROUP, after, "+", _PAGE, self._name
        )
        return {entry["message_id"]: entry["times_delivered"] for entry in page}

    def _fetch(self, times_delivered: dict[bytes, int]) -> list[Entry]:
        found: Any = self._read_again(
            keys=[self._keys.stream], args=[_GROUP, self._name, *times_delivered]
        )
        # Fields come as a list of names and values.
        return self._hold(
            [
                Entry(
                    id_,
                    _payload(dict(zip(fields[::2], fields[1::2], strict=True))),
                    times_delivered[id_] + 1,
                )
                for id_, fields in found
            ]
        )

    def _read_new(self, count: int, block_ms: int) -> list[Entry]:
        streams: Any = self._client.xreadgroup(
            _GROUP, self._name, {self._keys.stream: ">"}, count=count, block=block_ms or None
        )
        return self._hold(
            [Entry(id_, _payload(fields), 1) for _, found in streams for id_, fields in found]
        )

    def _hold(self, entries: list[Entry]) -> list[Entry]:
        with self._lock:
            self._held.update(entry.id for entry in entries)
        return entries

    def _drop(self, poisoned: Sequence[bytes]) -> None:
        if poisoned:
            dropped = self._delete(poisoned)
            self.dropped += dropped
            metrics.UNROLLS_DROPPED.labels(self._keys.policy).inc(dropped)
            logs.get().warning(
                "dropped unrolls that were delivered too often", entries=len(poisoned)
            )

    def _flush(self) -> int:
        with self._lock:
            ids, self._unacknowledged = self._unacknowledged, []
        if not ids:
            return 0
        try:
            deleted = self._delete(ids)
        except RedisError:
            with self._lock:
                self._unacknowledged = ids + self._unacknowledged
            raise
        with self._lock:
            self._held.difference_update(ids)
        return deleted

    def _delete(self, ids: Sequence[bytes]) -> int:
        deleted: int = self._acknowledge(
            keys=[self._keys.stream, self._keys.sizes], args=[_GROUP, self._name, *ids]
        )
        return deleted


def _payload(fields: Mapping[bytes, bytes]) -> bytes:
    """What an entry carries; nothing, which is no unroll, where somebody added other fields."""
    return fields.get(b"u", b"")


def _is_missing(error: RedisError) -> bool:
    """The stream or the group is gone: the server came back empty, or was emptied."""
    text = str(error) if isinstance(error, ResponseError) else ""
    return text.startswith(("NOGROUP", "UNBLOCKED")) or "no such key" in text
