"""The learner's loop: draw a batch, train on it, acknowledge, publish, save."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from pronk.config import Experiment, dump, experiment_hash
from pronk.config.schema import AlgorithmConfig
from pronk.rl.batch import SlotGroup, assemble
from pronk.telemetry import logs, metrics
from pronk.transport.buffer import Consumer
from pronk.transport.membership import Membership
from pronk.wire.spec import EnvironmentSpec
from pronk.wire.unroll import Unroll
from pronk.wire.v1 import registry_pb2 as pb
from pronk_learner import checkpoint
from pronk_learner.batcher import Batcher, Draw
from pronk_learner.figures import Meter
from pronk_learner.ingest import Ingest
from pronk_learner.progress import Progress
from pronk_learner.publisher import Publisher, Snapshot
from pronk_learner.trained import Trained
from pronk_learner.trainer import Trainer, are_finite

_WAIT_SECONDS = 0.1
_SKIPPED_IN_A_ROW = 50


@dataclass(frozen=True)
class Assignment:
    """What a learner was given to do: a policy, under an epoch, with a place to write."""

    experiment: Experiment
    policy: str
    run: str
    epoch: int
    spec: EnvironmentSpec
    folder: Path

    @property
    def algorithm(self) -> AlgorithmConfig:
        """The policy's algorithm."""
        return self.experiment.algorithm_of(self.policy)


class Learner:
    """Trains one policy. Ingest and publishing go on in threads of their own beside it."""

    def __init__(
        self,
        assignment: Assignment,
        membership: Membership,
        trainer: Trainer,
        progress: Progress,
        consumer: Consumer,
        ingest: Ingest,
        publisher: Publisher,
        trained: Trained,
    ) -> None:
        self._assignment = assignment
        self._membership = membership
        self._experiment = assignment.experiment
        self._policy = assignment.policy
        self._trainer = trainer
        self._progress = progress
        self._consumer = consumer
        self._ingest = ingest
        self._publisher = publisher
        self._batcher = Batcher(assignment.algorithm.batch_size)
        self._trained = trained
        self._skipped = 0
        self._answered = 0  # refused unrolls that a version has followed
        self.meter = Meter()

    def publish(self) -> None:
        """Hand the weights to the publisher."""
        counters = self._progress.counters
        self._publisher.submit(
            Snapshot(
                self._trainer.weights(), self._assignment.epoch, counters.version, counters.frames
            )
        )

    def step(self, stop: threading.Event, beat: Callable[[], None]) -> None:
        """Train on one batch, if there is one within a tenth of a second.

        Args:
            stop: ends the wait of lock step for the version's being published.
            beat: feeds liveness meanwhile.

        Raises:
            Fenced: another learner has taken over the policy.
        """
        started = time.perf_counter()
        draw = self._draw()
        drawn = time.perf_counter()
        self._count_time(waiting=drawn - started)
        lockstep, refused = self._experiment.actor.lockstep, self._ingest.refused
        if draw is not None:
            self._train(draw)
        elif lockstep and refused > self._answered:
            self._answer()
        else:
            return
        self._answered = refused
        if lockstep:
            self._publisher.flush(stop, beat)
        self._count_time(busy=time.perf_counter() - drawn)

    def divergence(self) -> str | None:
        """Why training cannot go on, or None: no update could be applied for a while."""
        patience = 1 if self._experiment.actor.lockstep else _SKIPPED_IN_A_ROW
        if self._skipped >= patience:
            return f"training diverged: {self._skipped} updates in a row are not finite"
        if self._publisher.diverged >= patience:
            return f"training diverged: {self._publisher.diverged} versions in a row are not finite"
        return None

    def discard(self) -> None:
        """Take an unroll that nobody will train on out of the buffer, so that actors go on.

        A policy that is done must not hold up the others that share its actors.
        """
        if (item := self._ingest.get(timeout=0)) is not None:
            self._check_fence()
            self._consumer.ack([item[0]])

    def version(self) -> pb.Version:
        """The version that the weights are now."""
        return pb.Version(
            policy=self._policy,
            epoch=self._assignment.epoch,
            number=self._progress.counters.version,
        )

    def save(self) -> None:
        """Write a checkpoint; a full disk is told and counted, and training goes on.

        What is not finite is not written: nobody could go on from there, and the one before may
        be removed.

        Raises:
            Fenced: another learner has taken over the policy.
        """
        self._check_fence()
        weights, optimizer = self._trainer.weights(), self._trainer.optimizer_state()
        if not are_finite([*weights.values(), *optimizer.values()]):
            self._not_saved("weights or optimizer state are not finite")
            return
        try:
            checkpoint.save(
                self._assignment.folder / "checkpoints",
                checkpoint.Checkpoint(
                    epoch=self._assignment.epoch,
                    weights=weights,
                    optimizer=optimizer,
                    counters=self._progress.counters,
                    experiment_hash=experiment_hash(self._experiment),
                    experiment=dump(self._experiment),
                    rng=torch.get_rng_state().tolist(),
                    trained=self._trained.saved(),
                ),
                self._experiment.learner.checkpoints_kept,
            )
            metrics.LAST_CHECKPOINT_TIMESTAMP.labels(self._policy).set_to_current_time()
        except OSError as error:
            self._not_saved(str(error))

    def _not_saved(self, why: str) -> None:
        metrics.CHECKPOINT_FAILURES.labels(self._policy).inc()
        logs.get().error("checkpoint_not_written", why=why)

    def _answer(self) -> None:
        """Follow a refused unroll by a version of the same weights: its actor waits for one."""
        self._progress.counters.version += 1
        self.publish()

    def _check_fence(self) -> None:
        self._membership.check_epoch(self._policy, self._assignment.epoch)

    def _draw(self) -> Draw | None:
        while (draw := self._batcher.draw()) is None:
            item = self._ingest.get(timeout=_WAIT_SECONDS)
            if item is None:
                return None
            self._take(*item)
        return draw

    def _take(self, entry_id: bytes, unroll: Unroll) -> None:
        taken = self._trained.slots(unroll.header)
        if taken < unroll.slots and not self._batcher.holds(unroll.header):
            self._batcher.add(entry_id, unroll, taken)
            return
        metrics.UNROLLS_REFUSED.labels(self._policy, "duplicate").inc()
        self._check_fence()
        self._consumer.ack([entry_id])

    def _train(self, draw: Draw) -> None:
        counters = self._progress.counters
        update = self._trainer.update(assemble(draw.groups), counters.frames)
        self.meter.update = update
        if update.applied:
            self._skipped = 0
            self._count_update(draw)
        else:
            self._skipped += 1
            metrics.UPDATES_SKIPPED.labels(self._policy, "non_finite").inc()
            logs.get().warning("update_skipped", why="gradient or statistics are not finite")
        for group in draw.groups:
            self._trained.add(group.unroll.header, group.stop)
        for unroll in draw.unrolls:
            self._progress.finished(unroll.episodes)
        self._check_fence()
        self._consumer.ack(list(draw.finished))
        if update.applied and counters.updates % self._experiment.learner.publish_every == 0:
            self.publish()

    def _count_update(self, draw: Draw) -> None:
        counters = self._progress.counters
        steps, frames = draw.steps, draw.steps * self._assignment.spec.frames_per_step
        lags = [counters.version - _mean_version(group) for group in draw.groups]
        self.meter.lag = float(np.mean(lags))
        self.meter.frames += frames
        self._progress.applied(steps, frames, self.meter.lag)
        counters.version += 1
        for lag in lags:
            metrics.LAG.labels(self._policy).observe(lag)
        metrics.UPDATES.labels(self._policy).inc()
        metrics.FRAMES_CONSUMED.labels(self._policy).inc(frames)
        metrics.LAST_UPDATE_TIMESTAMP.labels(self._policy).set_to_current_time()

    def _count_time(self, *, busy: float = 0.0, waiting: float = 0.0) -> None:
        self.meter.busy_seconds += busy
        self.meter.waiting_seconds += waiting
        metrics.LEARNER_BUSY_SECONDS.labels(self._policy).inc(busy)
        metrics.LEARNER_WAITING_SECONDS.labels(self._policy).inc(waiting)


def _mean_version(group: SlotGroup) -> float:
    return float(group.unroll.behaviour_version[:, group.start : group.stop].mean())
