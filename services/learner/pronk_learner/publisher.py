"""Versions on their way to the parameter server, in a thread of its own.

Only the newest snapshot waits: a publisher that cannot keep up skips versions, and training never
waits for it (except in lock step, where `flush` does).
"""

import threading
import time
from dataclasses import dataclass

import torch

from pronk.errors import Fenced
from pronk.policy.bundle import Bundle
from pronk.policy.export import Exporter
from pronk.telemetry import logs, metrics
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

    def __init__(self, exporter: Exporter, client: PolicyPublisher, policy: str) -> None:
        self._exporter = exporter
        self._client = client
        self._policy = policy
        self._changed = threading.Condition()
        self._waiting: Snapshot | None = None
        self._busy = False
        self._closed = False
        self._republish = False
        self._thread = threading.Thread(target=self._run, name="publisher", daemon=True)
        self.newest: Bundle | None = None
        self.failure: BaseException | None = None

    def start(self) -> None:
        """Begin to publish."""
        self._thread.start()

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

    def republish(self) -> None:
        """Send the newest policy again: the server lost it."""
        with self._changed:
            self._republish = True
            self._changed.notify_all()

    def flush(self, stop: threading.Event) -> None:
        """Wait until everything submitted is published; return early when `stop` is set."""
        with self._changed:
            while (self._waiting or self._busy) and not stop.is_set():
                if self.failure is not None:
                    break
                self._changed.wait(timeout=0.2)
        self._raise_failure()

    def close(self) -> None:
        """End the thread after the policy that is under way."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join(timeout=5)

    def _raise_failure(self) -> None:
        if isinstance(self.failure, Fenced):
            raise self.failure
        if self.failure is not None:
            raise RuntimeError("the publisher has died") from self.failure

    def _run(self) -> None:
        try:
            while (work := self._next()) is not None:
                snapshot, again = work
                if snapshot is not None:
                    self._publish(snapshot)
                elif again and self.newest is not None:
                    self._client.publish(self.newest)
                with self._changed:
                    self._busy = False
                    self._changed.notify_all()
        except Exception as error:
            logs.get().error("publishing has ended", reason=str(error))
            metrics.PUBLISH_FAILURES.labels(self._policy).inc()
            self.failure = error

    def _next(self) -> tuple[Snapshot | None, bool] | None:
        with self._changed:
            while not (self._waiting or self._republish or self._closed):
                self._changed.wait()
            if self._closed and not self._waiting:
                return None
            snapshot, again = self._waiting, self._republish
            self._waiting, self._republish, self._busy = None, False, True
            return snapshot, again

    def _publish(self, snapshot: Snapshot) -> None:
        started = time.perf_counter()
        bundle = self._exporter.bundle(
            snapshot.weights, snapshot.epoch, snapshot.number, snapshot.frames
        )
        self._client.publish(bundle)
        self.newest = bundle
        metrics.PUBLISH_SECONDS.labels(self._policy).observe(time.perf_counter() - started)
