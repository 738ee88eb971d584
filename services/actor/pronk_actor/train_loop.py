"""The work loop of an actor that gathers training data."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from pronk.envs.slots import SlotEnv, joined
from pronk.telemetry import logs, metrics
from pronk.wire.unroll import Unroll, UnrollHeader
from pronk_actor.meter import Meter
from pronk_actor.player import Player
from pronk_actor.policy_source import PolicySource
from pronk_actor.reports import EpisodeReports
from pronk_actor.sender import Sender

_WAIT_SECONDS = 0.2


@dataclass
class Cast:
    """A player with where its versions come from and where its unrolls go."""

    player: Player
    source: PolicySource
    sender: Sender
    header: UnrollHeader
    played: int = -1
    """Number of the version that the last unroll was played with."""
    left_over: list[Unroll] = field(default_factory=list)
    """Unrolls that found no room when the actor had to stop."""


class TrainLoop:
    """Steps the environment, from one end of an unroll to the next."""

    def __init__(
        self,
        env: SlotEnv,
        casts: Sequence[Cast],
        meter: Meter,
        reports: EpisodeReports,
        *,
        lockstep: bool,
        beat: Callable[[], None],
        finished: Callable[[], bool],
    ) -> None:
        """Get ready to play.

        Args:
            env: all slots of the actor.
            casts: one per policy.
            meter: counts what is done.
            reports: takes episodes.
            lockstep: play one unroll per version.
            beat: feeds liveness; called with every row and from every wait.
            finished: whether the run is over.
        """
        self._env = env
        self._casts = casts
        self._meter = meter
        self._reports = reports
        self._lockstep = lockstep
        self._beat = beat
        self._finished = finished

    def run(self, stop: threading.Event) -> None:
        """Play until `stop` is set; unrolls that were begun are finished."""
        observation = self._env.reset()
        for cast in self._casts:
            cast.player.restart(observation)
            seat, version = cast.player.seat, cast.player.agent.policy.version
            self._reports.began(seat.policy, version, [(slot, 0) for slot in seat.slots])
        while not stop.is_set():
            self._beat()
            if self._finished():
                with self._meter.blocked():
                    stop.wait(_WAIT_SECONDS)
            elif self._swap():
                self._play_on(stop)
        # Several policies may have unrolls of different lengths.
        begun = [cast for cast in self._casts if not cast.player.between_unrolls]
        while begun:
            full = self._play_on(stop)
            begun = [cast for cast in begun if cast not in full]

    def _swap(self) -> bool:
        """Take newer versions between unrolls; False while lock step must wait for one."""
        for cast in self._casts:
            if not cast.player.between_unrolls:
                continue
            newest = cast.source.newest()
            if self._lockstep and cast.played >= newest.version.number:
                with self._meter.blocked():
                    self._await_version(cast)
                return False
            if newest.version > cast.player.agent.policy.version:
                cast.player.agent.adopt(newest)
                metrics.POLICIES_ADOPTED.inc()
        return True

    def _await_version(self, cast: Cast) -> None:
        newer = cast.source.wait_above(cast.played, _WAIT_SECONDS)
        if newer is None and cast.sender.lost():
            # The learner waits for an unroll that is no more. Not the same one again: it may have
            # been trained on before the buffer was emptied, and must not be a second time.
            logs.get().warning("unroll_lost", policy=cast.player.seat.policy)
            cast.played = -1

    def _play_on(self, stop: threading.Event) -> list[Cast]:
        """Step until an unroll is full, and deliver it; return whose it was."""
        self._step(min(cast.player.rows_left for cast in self._casts))
        full = [cast for cast in self._casts if cast.player.rows_left == 0]
        for cast in full:
            self._deliver(cast, stop)
        self._meter.tell()
        return full

    def _step(self, rows: int) -> None:
        """Inference, sampling, stepping, copies into rows, and nothing else."""
        players = [cast.player for cast in self._casts]
        for _ in range(rows):
            self._beat()
            result = self._env.step(joined([player.act() for player in players]))
            for player in players:
                player.record(result)

    def _deliver(self, cast: Cast, stop: threading.Event) -> None:
        policy = cast.player.seat.policy
        version = cast.player.agent.policy.version
        cast.played = version.number
        unroll, ended = cast.player.finish(cast.header)
        frames = self._meter.count(unroll.steps, len(ended), unrolls=1)
        metrics.FRAMES_PRODUCED.labels(policy).inc(frames)
        self._reports.ended(policy, ended)
        over = [(end.episode.slot, end.episode.number) for end in ended] + cast.player.lost
        self._reports.began(policy, version, [(slot, number + 1) for slot, number in over])
        if cast.sender.offer(unroll, 0):
            return
        with self._meter.blocked():
            while not self._finished():  # then nobody will train on it
                if stop.is_set():
                    cast.left_over.append(unroll)
                    return
                if cast.sender.offer(unroll, _WAIT_SECONDS):
                    return
                self._beat()
