"""A cluster's condition, read from the parameter server's answers: pure functions and values."""

import math
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from pronk.wire.v1 import registry_pb2
from pronk.words import percent

_WINDOW_SECONDS = 10.0
_GONE_SECONDS = 60.0
_NOTABLE_SHARE = 0.1
_LOST_SHARE = 0.4

KINDS = {
    registry_pb2.MEMBER_KIND_LEARNER: "learner",
    registry_pb2.MEMBER_KIND_TRAIN: "actor",
    registry_pb2.MEMBER_KIND_EVALUATE: "evaluator",
    registry_pb2.MEMBER_KIND_SERVE: "server",
}
VERDICTS = ("balanced", "actor-bound", "learner-bound", "buffer-bound")
"""What holds a cluster up; `pronk:bottleneck` is the index."""
STATES = {
    registry_pb2.RUN_STATE_RUNNING: "RUNNING",
    registry_pb2.RUN_STATE_FINISHED: "FINISHED",
    registry_pb2.RUN_STATE_FAILED: "FAILED",
}


@dataclass(frozen=True)
class Member:
    """One process of the cluster.

    Attributes:
        waiting: share of its newest seconds that a learner waited for data, or an actor for room
            in the buffer; None until it can be told.
        steps_per_second: of an actor, over the window.
    """

    id: str
    kind: str
    index: int
    host: str
    pid: int
    alive: bool
    seconds_since_heartbeat: float
    policies: tuple[str, ...]
    versions: dict[str, int]
    waiting: float | None = None
    steps_per_second: float | None = None


@dataclass(frozen=True)
class Vitals:
    """How the cluster is. What cannot be told is None.

    Attributes:
        steps, frames, updates, episodes: learned by the whole run.
        progress: share of the way to the stop condition, of the policy that is furthest behind.
    """

    run: str
    state: str
    reason: str
    members: tuple[Member, ...]
    newest: dict[str, int]
    steps: int = 0
    frames: int = 0
    updates: int = 0
    episodes: int = 0
    refused: int = 0
    steps_per_second: float | None = None
    frames_per_second: float | None = None
    return_mean: float | None = None
    lag: float | None = None
    progress: float | None = None
    seconds_left: float | None = None
    actor_demand: float | None = None

    @property
    def learner_waiting(self) -> float | None:
        """Share of the learners' time that they waited for data."""
        return _mean(m.waiting for m in self.members if m.alive and m.kind == "learner")

    @property
    def actors_blocked(self) -> float | None:
        """Share of the actors' time that they waited for room in the buffer."""
        return _mean(m.waiting for m in self.members if m.alive and m.kind == "actor")

    @property
    def verdict(self) -> str | None:
        """Who holds up whom, one of `VERDICTS`."""
        waiting, blocked = self.learner_waiting, self.actors_blocked
        if waiting is None or blocked is None:
            return None
        return bottleneck(waiting, blocked)

    def who_waits(self) -> str | None:
        """The same in words, for example `learner waits 2 % · actors blocked 40 %`."""
        waiting, blocked = self.learner_waiting, self.actors_blocked
        parts = []
        if waiting is not None:
            parts.append(f"learner waits {percent(waiting)}")
        if blocked is not None:
            parts.append(f"actors blocked {percent(blocked)}")
        return " · ".join(parts) or None

    def as_json(self) -> dict[str, Any]:
        """Everything, for programs."""
        plain = {name: value for name, value in vars(self).items() if name != "members"}
        derived = {
            "learner_waiting_share": self.learner_waiting,
            "actor_blocked_share": self.actors_blocked,
            "verdict": self.verdict,
        }
        return plain | derived | {"members": [vars(member) for member in self.members]}


def bottleneck(waiting: float, blocked: float) -> str:
    """Who holds up whom; the recording rule `pronk:bottleneck` says the same.

    Where both sides wait long, neither is to blame but what lies between them: a buffer that is
    slow or away. Its fill does not tell: slow to write it is empty, slow to read it is full.

    Args:
        waiting: share of the learners' time that they waited for data.
        blocked: share of the actors' time that they waited for room in the buffer.
    """
    if max(waiting, blocked) < _NOTABLE_SHARE:
        return "balanced"
    if min(waiting, blocked) >= _LOST_SHARE:
        return "buffer-bound"
    return "learner-bound" if blocked >= waiting else "actor-bound"


@dataclass(frozen=True)
class _Sample:
    at: float
    active: float
    waiting: float
    steps: int


class Monitor:
    """Turns answers into `Vitals`: rates and shares are over the last ten seconds."""

    def __init__(self) -> None:
        self._samples: dict[str, deque[_Sample]] = {}

    def observe(self, status: registry_pb2.GetStatusResponse, now: float) -> Vitals:
        """Take in an answer received at `now` (monotonic seconds)."""
        known = {member.member for member in status.members}
        self._samples = {name: kept for name, kept in self._samples.items() if name in known}
        for member in status.members:
            self._sample(member, now)
        learners = [m.learner for m in status.members if m.alive and m.HasField("learner")]
        totals = {
            name: sum(getattr(stats, name) for stats in learners)
            for name in ("steps", "frames", "updates", "episodes")
        }
        rate = _sum(_optional(stats, "steps_per_second") for stats in learners)
        frames_per_step = totals["frames"] / totals["steps"] if totals["steps"] else None
        return Vitals(
            run=status.run,
            state=STATES.get(status.run_state, "UNKNOWN"),
            reason=status.run_state_reason,
            members=tuple(
                self._member(m)
                for m in sorted(status.members, key=lambda m: (m.kind, m.index))
                if m.alive or m.seconds_since_heartbeat < _GONE_SECONDS
            ),
            newest={version.policy: version.number for version in status.newest},
            **totals,
            refused=sum(stats.unrolls_refused for stats in learners),
            steps_per_second=rate,
            frames_per_second=rate * frames_per_step if rate and frames_per_step else None,
            return_mean=_mean(_optional(stats, "return_mean") for stats in learners),
            lag=_mean(_optional(stats, "lag_mean") for stats in learners),
            progress=_extreme(min, [_optional(stats, "progress") for stats in learners]),
            seconds_left=_extreme(max, [_optional(stats, "seconds_left") for stats in learners]),
            actor_demand=_optional(status, "actor_demand"),
        )

    def _sample(self, member: registry_pb2.Member, now: float) -> None:
        if member.HasField("learner"):
            learner = member.learner
            sample = _Sample(now, learner.busy_seconds, learner.waiting_seconds, learner.steps)
        elif member.HasField("actor"):
            actor = member.actor
            sample = _Sample(now, actor.busy_seconds, actor.blocked_seconds, actor.steps)
        else:
            return
        samples = self._samples.setdefault(member.member, deque())
        if samples and _same(samples[-1], sample):  # no heartbeat since
            return
        samples.append(sample)
        while len(samples) > 2 and now - samples[1].at > _WINDOW_SECONDS:
            samples.popleft()

    def _member(self, member: registry_pb2.Member) -> Member:
        samples = self._samples.get(member.member, ())
        is_actor = member.HasField("actor")
        return Member(
            id=member.member,
            kind=KINDS.get(member.kind, "unknown"),
            index=member.index,
            host=member.host,
            pid=member.pid,
            alive=member.alive,
            seconds_since_heartbeat=member.seconds_since_heartbeat,
            policies=tuple(member.policies),
            versions={version.policy: version.number for version in member.versions},
            waiting=_waiting(samples),
            steps_per_second=_rate(samples) if is_actor else None,
        )


def _same(old: _Sample, new: _Sample) -> bool:
    return (old.active, old.waiting, old.steps) == (new.active, new.waiting, new.steps)


def _waiting(samples: Sequence[_Sample]) -> float | None:
    if len(samples) < 2:
        return None
    first, last = samples[0], samples[-1]
    waited, active = last.waiting - first.waiting, last.active - first.active
    total = waited + active
    return waited / total if math.isfinite(total) and total > 0 else None


def _rate(samples: Sequence[_Sample]) -> float | None:
    if len(samples) < 2:
        return None
    first, last = samples[0], samples[-1]
    return (last.steps - first.steps) / (last.at - first.at)


def _optional(message: Any, field: str) -> float | None:
    """A field; what is not there or not finite (JSON knows no NaN) cannot be told."""
    value: float | None = getattr(message, field) if message.HasField(field) else None
    return value if value is not None and math.isfinite(value) else None


def _known(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def _sum(values: Iterable[float | None]) -> float | None:
    known = _known(values)
    return sum(known) if known else None


def _mean(values: Iterable[float | None]) -> float | None:
    known = _known(values)
    return sum(known) / len(known) if known else None


def _extreme(pick: Any, values: Sequence[float | None]) -> float | None:
    known = _known(values)
    return pick(known) if known and len(known) == len(values) else None
