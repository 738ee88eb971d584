"""A learner's life: train until the stop condition, save on the way, finish, stay ready."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import grpc

from pronk.policy.folders import keep_newest
from pronk.telemetry import logs, metrics
from pronk.transport.cluster import cut_release, leave_report, set_run_state
from pronk.transport.health import Health
from pronk.transport.membership import Membership
from pronk.transport.retry import details_of
from pronk.wire.v1 import registry_pb2 as pb
from pronk_learner import report
from pronk_learner.figures import Figures, finite
from pronk_learner.ingest import Ingest
from pronk_learner.learner import Assignment, Learner
from pronk_learner.progress import Progress
from pronk_learner.publisher import Publisher

_TICK_SECONDS = 1.0
_IDLE_SECONDS = 0.5
_DISCARD_SECONDS = 0.01


class Session:
    """Runs a learner between its start and its end."""

    def __init__(
        self,
        assignment: Assignment,
        channel: grpc.Channel,
        membership: Membership,
        learner: Learner,
        progress: Progress,
        publisher: Publisher,
        ingest: Ingest,
        journal: report.Journal,
        health: Health,
        buffer_at_hand: Callable[[], bool],
    ) -> None:
        self._assignment = assignment
        self._channel = channel
        self._membership = membership
        self._learner = learner
        self._progress = progress
        self._publisher = publisher
        self._ingest = ingest
        self._health = health
        self._buffer_at_hand = buffer_at_hand
        self._figures = Figures(assignment.policy, progress, learner.meter)
        self._failure: str | None = None
        self._journal = journal
        self._started = time.monotonic() - progress.counters.seconds
        self._next_tick = 0.0
        self._next_checkpoint = time.monotonic() + assignment.experiment.learner.checkpoint_seconds

    def run(self, stop: threading.Event) -> None:
        """Train, finish and idle until `stop` is set.

        Raises:
            Fenced: another learner has taken over; nothing more is written.
        """
        try:
            # Whoever held an older epoch and cannot reach the parameter server learns it there.
            self._learner.save()
            self._learner.publish()
            self._publisher.flush(stop, self._health.beat)
            reason = self._train(stop)
            self._finish(reason, stop)
        finally:
            with _disk("journal"):
                self._journal.close()
        while not stop.wait(_IDLE_SECONDS if self._membership.finished else 0.0):
            self._health.beat()
            if time.monotonic() >= self._next_tick:
                self._look_around()
            if not self._membership.finished:
                self._learner.discard()
                stop.wait(_DISCARD_SECONDS)

    def _train(self, stop: threading.Event) -> str | None:
        """Train until the stop condition (its reason is returned) or until `stop` (None)."""
        reason = self._progress.stop_reason()
        if reason is None and self._membership.run_state != pb.RUN_STATE_RUNNING:
            # A finished run whose stop condition was raised since.
            self._set_state(pb.RUN_STATE_RUNNING, "resumed", stop)
        while reason is None and not stop.is_set():
            self._learner.step(stop, self._health.beat)
            self._health.beat()
            if time.monotonic() >= self._next_tick:
                self._tick()
            self._failure = self._learner.divergence()
            reason = self._failure or self._progress.stop_reason()
        return reason

    def _tick(self, *, last: bool = False) -> None:
        now = time.monotonic()
        self._progress.tick(now - self._started)
        self._look_around()
        due = last or self._journal.is_due(self._progress.counters.seconds)
        if due and self._progress.counters.updates:
            with _disk("journal"):
                self._journal.write(self._figures.row())
        if now >= self._next_checkpoint:
            self._next_checkpoint = now + self._assignment.experiment.learner.checkpoint_seconds
            self._learner.save()

    def _finish(self, reason: str | None, stop: threading.Event) -> None:
        """Leave a policy, a checkpoint, a curve and a summary; say FINISHED where it is."""
        self._tick(last=True)
        self._learner.save()
        if reason is not None:
            self._learner.publish()
            self._publisher.flush(stop, self._health.beat)
        with _disk("policy"):
            self._leave_policy()
        with _disk("report"):
            self._write_report(reason)
            self._leave_report(stop)
        if self._failure is not None:
            self._set_state(pb.RUN_STATE_FAILED, self._failure, stop)
            logs.get().error("failed", reason=self._failure)
        elif reason is not None:
            self._release(reason, stop)
            self._set_state(pb.RUN_STATE_FINISHED, reason, stop)
            logs.get().info("finished", reason=reason)

    def _look_around(self) -> None:
        """Once a second: tell the parameter server how it goes; ready while the buffer is there."""
        self._next_tick = time.monotonic() + _TICK_SECONDS
        self._health.set_ready(self._buffer_at_hand())
        metrics.tell_disk(self._assignment.folder)
        self._figures.tell_returns()
        self._report()

    def _release(self, reason: str, stop: threading.Event) -> None:
        version = self._learner.version()
        try:
            cut_release(
                self._channel, self._membership.member, version, reason, stop, self._health.beat
            )
        except grpc.RpcError as error:
            metrics.DISK_FAILURES.labels("release").inc()
            logs.get().error("release_not_cut", why=details_of(error))

    def _set_state(self, state: pb.RunState.ValueType, reason: str, stop: threading.Event) -> None:
        set_run_state(
            self._channel, self._membership.member, state, reason, stop, self._health.beat
        )

    def _leave_policy(self) -> None:
        """Keep the newest policy as a folder that `pronk evaluate` and anyone can run."""
        bundle = self._publisher.newest
        if bundle is None:
            return
        folder, policy = self._assignment.folder / "policies", self._assignment.policy
        bundle.save(folder / f"{policy}-{bundle.manifest.number}")
        keep_newest(folder, policy, self._assignment.experiment.learner.checkpoints_kept)

    def _write_report(self, reason: str | None) -> None:
        # matplotlib takes a second to import: not while actors wait for a first version.
        from pronk_learner import curve

        experiment, folder = self._assignment.experiment, self._assignment.folder
        report.write_json(
            folder / "summary.json",
            report.summary(experiment, self._assignment.run, self._progress, reason),
        )
        curve.draw(
            report.read(folder / report.METRICS),
            folder / "curve.png",
            title=experiment.env.id,
            target=experiment.stop.return_mean,
        )

    def _leave_report(self, stop: threading.Event) -> None:
        """Have the parameter server keep what is small, for those who do not see this disk."""
        left = report.message(self._assignment.policy, self._assignment.folder)
        try:
            leave_report(self._channel, self._membership.member, left, stop, self._health.beat)
        except grpc.RpcError as error:
            metrics.DISK_FAILURES.labels("report").inc()
            logs.get().error("report_not_left", why=details_of(error))

    def _report(self) -> None:
        """Tell the parameter server how it goes, with the next heartbeat."""
        counters, meter = self._progress.counters, self._learner.meter
        outlook = self._progress.outlook()
        stats = pb.LearnerStats(
            steps=counters.steps,
            frames=counters.frames,
            updates=counters.updates,
            episodes=counters.episodes,
            busy_seconds=meter.busy_seconds,
            waiting_seconds=meter.waiting_seconds,
            frames_since_start=meter.frames,
            return_mean=finite(self._progress.return_mean()),
            lag_mean=meter.lag,
            steps_per_second=self._progress.steps_per_second,
            progress=outlook.progress,
            seconds_left=outlook.seconds_left,
            unrolls_refused=self._ingest.refused,
        )
        self._membership.report(stats, [self._learner.version()])


@contextmanager
def _disk(what: str) -> Iterator[None]:
    """A full disk is told and counted; training goes on."""
    try:
        yield
    except OSError as error:
        metrics.DISK_FAILURES.labels(what).inc()
        logs.get().error("not_written", what=what, why=str(error))
