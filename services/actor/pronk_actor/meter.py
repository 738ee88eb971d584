"""Where an actor's time goes, and what it has done so far."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from pronk.telemetry import metrics
from pronk.wire.v1 import registry_pb2


class Meter:
    """Counts since the actor's start. The work loop writes, other threads read."""

    def __init__(self, slots: int, frames_per_step: int) -> None:
        """Start the clock of an actor that plays `slots` slots."""
        self.steps = 0
        self.frames = 0
        self.unrolls = 0
        self.episodes = 0
        self._slots = slots
        self._frames_per_step = frames_per_step
        self._started = time.perf_counter()
        self._blocked = 0.0
        self._blocked_since: float | None = None
        self._told_busy = 0.0
        self._told_blocked = 0.0
        self._telling = threading.Lock()

    def count(self, steps: int, episodes: int, unrolls: int) -> int:
        """Count what was played; return its environment frames."""
        frames = steps * self._frames_per_step
        self.steps += steps
        self.frames += frames
        self.unrolls += unrolls
        self.episodes += episodes
        return frames

    @contextmanager
    def blocked(self) -> Iterator[None]:
        """The block waits for others: room in the buffer, a policy, the run to go on."""
        began = self._blocked_since = time.perf_counter()
        try:
            yield
        finally:
            with self._telling:
                self._blocked_since = None
                self._blocked += time.perf_counter() - began
            self.tell()

    @property
    def blocked_seconds(self) -> float:
        """Waited so far, a wait that is under way included."""
        since = self._blocked_since
        return self._blocked + (0.0 if since is None else time.perf_counter() - since)

    @property
    def busy_seconds(self) -> float:
        """Not waited so far."""
        return max(0.0, time.perf_counter() - self._started - self.blocked_seconds)

    def tell(self) -> None:
        """Bring the metrics of time up to date."""
        with self._telling:
            blocked, busy = self.blocked_seconds, self.busy_seconds
            metrics.ACTOR_BLOCKED_SECONDS.inc(max(0.0, blocked - self._told_blocked))
            metrics.ACTOR_BUSY_SECONDS.inc(max(0.0, busy - self._told_busy))
            self._told_blocked = max(blocked, self._told_blocked)
            self._told_busy = max(busy, self._told_busy)

    def stats(self) -> registry_pb2.ActorStats:
        """What heartbeats tell; a wait that is under way shows in the metrics with it."""
        self.tell()
        return registry_pb2.ActorStats(
            steps=self.steps,
            frames=self.frames,
            busy_seconds=self.busy_seconds,
            blocked_seconds=self.blocked_seconds,
            unrolls=self.unrolls,
            episodes=self.episodes,
            slots=self._slots,
        )
