"""The work loop of an actor that judges policies: whole episodes, nothing sent to the buffer."""

import threading
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from pronk.envs import SlotEnv
from pronk.telemetry import metrics
from pronk_actor.evaluation import Part, play_episodes
from pronk_actor.meter import Meter
from pronk_actor.policy_source import PolicySource
from pronk_actor.reports import EpisodeReports

_WAIT_SECONDS = 0.2


class EvaluateLoop:
    """Plays rounds of one episode per slot; newer versions are taken between rounds."""

    def __init__(
        self,
        env: SlotEnv,
        parts: Sequence[Part],
        sources: Mapping[str, PolicySource],
        meter: Meter,
        reports: EpisodeReports,
        *,
        beat: Callable[[], None],
        finished: Callable[[], bool],
    ) -> None:
        """Get ready to play; `beat` feeds liveness, `finished` tells whether the run is over."""
        self._env = env
        self._parts = parts
        self._sources = sources
        self._meter = meter
        self._reports = reports
        self._beat = beat
        self._finished = finished
        self._number = 0
        """Of the episodes that the next round begins with: no slot has had it."""

    def run(self, stop: threading.Event) -> None:
        """Play until `stop` is set; a round that was begun is given up."""
        while not stop.is_set():
            self._beat()
            if self._finished():
                with self._meter.blocked():
                    stop.wait(_WAIT_SECONDS)
            else:
                self._round(stop)

    def _round(self, stop: threading.Event) -> None:
        number = self._number
        for part in self._parts:
            newest = self._sources[part.policy].newest()
            if newest.version > part.agent.policy.version:
                part.agent.adopt(newest)
                metrics.POLICIES_ADOPTED.inc()
            slots, acting = range(part.where.start, part.where.stop), part.agent.policy
            self._reports.began(part.policy, acting.version, [(slot, number) for slot in slots])
        once = np.ones(self._env.slots, np.int64)
        self._number += 1
        played = play_episodes(
            self._env, self._parts, once, stop, number=number, beat=self._beat, lost=self._lost
        )
        for policy, ended in played.items():
            self._reports.ended(policy, ended)
            self._meter.count(sum(end.episode.steps for end in ended), len(ended), unrolls=0)
        self._meter.tell()

    def _lost(self, policy: str, slot: int, number: int) -> None:
        """Another episode begins in the slot: told so, the parameter server counts a lost one."""
        part = next(part for part in self._parts if part.policy == policy)
        self._reports.began(policy, part.agent.policy.version, [(slot, number + 1)])
        self._number = max(self._number, number + 2)
