"""Versions on their way to the parameter server, in a thread of its own.

Only the newest snapshot waits: a publisher that cannot keep up skips versions, and training never
waits for it (except in lock step, where `flush` does).
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import torch

from pronk.errors import Fenced
from pronk.policy.bundle import Bundle
from pronk.policy.export import Diverged, Exporter
from pronk.telemetry import logs, metrics
from pronk.transport.heart import Heart
from pronk.transport.policies import PolicyPublisher


@dataclass(frozen=True)
class Snapshot:
    """Weights as they were after an update."""

    weights: dict[str, torch.Tensor]
    epoch: int
    number: int
    frames: int


class Publisher:
    """Turns snapshots into policies and makes them the newest."""

    def __init__(
        self, exporter: Exporter, client: PolicyPublisher, policy: str, heart: Heart
    ) -> None:
        self._exporter = exporter
        self._client = client
        self._policy = policy
        self._heart = heart
        self._changed = threading.Condition()
        self._waiting: Snapshot | None = None
        self._busy = False
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="publisher", daemon=True)
        self.diverged = 0
        """Versions in a row that were not made, because their outputs were not finite."""
        self.newest: Bundle | None = None
        self.failure: BaseException | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End the thread after the version that is under way."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join(timeout=5)

    def submit(self, snapshot: Snapshot) -> None:
        """Publish a snapshot soon, in place of one that still waits.

        Raises:
            Fenced: another learner has taken over the policy.
            RuntimeError: the thread has died; the cause is chained.
        """
        self._raise_failure()
        with self._changed:
            self._waiting = snapshot
            self._changed.notify_all()

    def flush(self, stop: threading.Event, beat: Callable[[], None]) -> None:
        """Wait until everything submitted is published; return early when `stop` is set.

        `beat` is called at least once a second meanwhile.
        """
        with self._changed:
            while (self._waiting or self._busy) and not stop.is_set() and self.failure is None:
                beat()
                self._changed.wait(timeout=0.2)
        self._raise_failure()

    def _raise_failure(self) -> None:
        if isinstance(self.failure, Fenced):
            raise self.failure
        if self.failure is not None:
            raise RuntimeError("the publisher has died") from self.failure

    def _run(self) -> None:
        try:
            while (snapshot := self._next()) is not None:
                with self._heart.at_work("publisher") as beat:
                    self._publish(snapshot, beat)
                with self._changed:
                    self._busy = False
                    self._changed.notify_all()
        except Exception as error:
            logs.get().error("publishing_ended", why=str(error))
            self.failure = error

    def _next(self) -> Snapshot | None:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            snapshot, self._waiting = self._waiting, None
            self._busy = snapshot is not None
            return snapshot

    def _publish(self, snapshot: Snapshot, beat: Callable[[], None]) -> None:
        try:
            bundle = self._exporter.bundle(
                snapshot.weights,
                epoch=snapshot.epoch,
                number=snapshot.number,
                frames=snapshot.frames,
            )
        except Diverged as error:
            metrics.PUBLISH_FAILURES.labels(self._policy).inc()
            self.diverged += 1
            logs.get().error("version_not_made", number=snapshot.number, why=str(error))
            return
        self.diverged = 0
        beat()
        if self._client.publish(bundle, beat):
            self.newest = bundle
