"""Unrolls → batches of exactly B slots, mixed from several unrolls."""

import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from pronk.rl.batch import SlotGroup
from pronk.wire.unroll import Unroll, UnrollHeader

_RECENT_SECONDS = 10.0
_PATIENCE_SECONDS = 1.0
"""After which one unroll may fill a batch: what is waited for may not come."""


@dataclass
class _Pending:
    """A validated unroll of the buffer and how many of its slots have been handed out."""

    entry_id: bytes
    unroll: Unroll
    taken: int = 0

    @property
    def left(self) -> int:
        return self.unroll.slots - self.taken


@dataclass(frozen=True)
class Draw:
    """The slot groups of one batch, and the entries and unrolls whose last slot is in it."""

    groups: tuple[SlotGroup, ...]
    finished: tuple[bytes, ...]
    unrolls: tuple[Unroll, ...]

    @property
    def steps(self) -> int:
        """Valid transitions in the groups."""
        return sum(int(g.unroll.valid[:, g.start : g.stop].sum()) for g in self.groups)


class Batcher:
    """First in, first out; but no unroll fills more than half a batch while others are to be had.

    Consecutive slots of one unroll were acted by one version at one time: a batch of two unrolls at
    least decorrelates them. Not thread-safe.
    """

    def __init__(self, batch_size: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._batch_size = batch_size
        self._clock = clock
        self._pending: deque[_Pending] = deque()
        self._last_seen: dict[str, float] = {}
        self._last_added = clock()

    @property
    def slots(self) -> int:
        """Slots that wait to be trained."""
        return sum(pending.left for pending in self._pending)

    def holds(self, header: UnrollHeader) -> bool:
        """Whether slots of that unroll wait to be trained."""
        return any(pending.unroll.header == header for pending in self._pending)

    def add(self, entry_id: bytes, unroll: Unroll, taken: int = 0) -> None:
        """Append a validated unroll, the first `taken` slots of which were trained on before."""
        now = self._clock()
        self._last_added = now
        self._last_seen[unroll.header.member] = now
        self._last_seen = {m: t for m, t in self._last_seen.items() if now - t < _RECENT_SECONDS}
        self._pending.append(_Pending(entry_id, unroll, taken))

    def draw(self) -> Draw | None:
        """The next batch, or None while the slots at hand do not make one."""
        share = self._batch_size
        impatient = self._clock() - self._last_added > _PATIENCE_SECONDS
        if len(self._last_seen) > 1 and not impatient:
            share = math.ceil(self._batch_size / 2)
        if sum(min(share, pending.left) for pending in self._pending) < self._batch_size:
            return None
        groups: list[SlotGroup] = []
        missing = self._batch_size
        for pending in self._pending:
            count = min(share, pending.left, missing)
            groups.append(SlotGroup(pending.unroll, pending.taken, pending.taken + count))
            pending.taken += count
            missing -= count
            if missing == 0:
                break
        finished = [p for p in self._pending if p.left == 0]
        self._pending = deque(p for p in self._pending if p.left)
        return Draw(
            tuple(groups), tuple(p.entry_id for p in finished), tuple(p.unroll for p in finished)
        )
