"""Who is in the cluster: leases, indexes, newest counters. Pure: the clock is handed in."""

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from pronk.wire.bounds import MAX_FIGURE
from pronk.wire.v1 import registry_pb2 as pb
from pronk_param_server.demand import Work
from pronk_param_server.refusal import EXHAUSTED, INVALID, NOT_FOUND, Refusal

HEARTBEAT_SECONDS = 1.0
"""Between two heartbeats of a member."""
LEASE_SECONDS = 10.0
"""Without a heartbeat for this long a member is removed."""
MAX_MEMBERS = 12_000
"""So many fit into one answer of status."""

_LATE_SECONDS = 3 * HEARTBEAT_SECONDS
_SAMPLE_SECONDS = 5.0
_SAMPLES = 13  # a minute
_ANY_SIGN = ("return_mean", "lag_mean")

KIND_NAMES = {
    pb.MEMBER_KIND_LEARNER: "learner",
    pb.MEMBER_KIND_TRAIN: "train",
    pb.MEMBER_KIND_EVALUATE: "evaluate",
    pb.MEMBER_KIND_SERVE: "serve",
}


@dataclass
class Member:
    """A living member.

    Attributes:
        heard: when its newest heartbeat came.
        report: its newest heartbeat.
        samples: (time, frames, busy seconds), one every 5 s of the last minute.
    """

    id: str
    kind: pb.MemberKind.ValueType
    index: int
    host: str
    pid: int
    policies: tuple[str, ...]
    heard: float
    report: pb.HeartbeatRequest = field(default_factory=pb.HeartbeatRequest)
    samples: deque[tuple[float, Work]] = field(default_factory=lambda: deque(maxlen=_SAMPLES))

    def recent_work(self) -> Work:
        """What it did in the last minute."""
        if not self.samples:
            return Work(0, 0)
        first, last = self.samples[0][1], _work(self.report)
        return Work(last.frames - first.frames, last.busy_seconds - first.busy_seconds)

    def to_proto(self, now: float) -> pb.Member:
        """The member as status shows it."""
        silent = now - self.heard
        message = pb.Member(
            member=self.id,
            kind=self.kind,
            index=self.index,
            host=self.host,
            pid=self.pid,
            policies=self.policies,
            versions=self.report.versions,
            seconds_since_heartbeat=silent,
            alive=silent <= _LATE_SECONDS,
        )
        match self.report.WhichOneof("stats"):
            case "actor":
                message.actor.CopyFrom(self.report.actor)
            case "learner":
                message.learner.CopyFrom(self.report.learner)
        return message


class Members:
    """Members by id, as long as their leases live."""

    def __init__(self, now: float) -> None:
        self._members: dict[str, Member] = {}
        self._last_sweep = now

    def register(self, request: pb.RegisterRequest, now: float) -> Member:
        """Add a member, or renew the one of the same incarnation.

        Raises:
            Refusal: RESOURCE_EXHAUSTED, there are too many.
        """
        member_id = f"{KIND_NAMES[request.kind]}-{request.incarnation[:12]}"
        known = self._members.get(member_id)
        if known is None and len(self._members) >= MAX_MEMBERS:
            raise Refusal(EXHAUSTED, f"the cluster is full: it has {MAX_MEMBERS} members")
        member = Member(
            id=member_id,
            kind=request.kind,
            index=known.index if known else self._index(request),
            host=request.host[:63],
            pid=request.pid,
            policies=tuple(request.policies),
            heard=now,
        )
        self._members[member_id] = member
        return member

    def heartbeat(self, report: pb.HeartbeatRequest, now: float) -> Member:
        """Renew a lease and take the report in.

        Raises:
            Refusal: NOT_FOUND, the member is not known (any more); INVALID_ARGUMENT, a number that
                nobody can have counted.
        """
        member = self.get(report.member)
        _check_stats(report)
        member.heard = now
        member.report = report
        if not member.samples or now - member.samples[-1][0] >= _SAMPLE_SECONDS:
            member.samples.append((now, _work(report)))
        return member

    def get(self, member_id: str) -> Member:
        """The member.

        Raises:
            Refusal: NOT_FOUND.
        """
        member = self._members.get(member_id)
        if member is None:
            raise Refusal(NOT_FOUND, f"member {member_id!r} is not known: register again")
        return member

    def __contains__(self, member_id: object) -> bool:
        return member_id in self._members

    def remove(self, member_id: str) -> None:
        """Forget a member; one that is not known is fine."""
        self._members.pop(member_id, None)

    def expire(self, now: float) -> list[Member]:
        """Remove and return those whose lease ended; call it about once a second.

        When this process itself stood still, nobody's silence in that time counts.
        """
        stood_still = now - self._last_sweep
        if stood_still > _LATE_SECONDS:
            for member in self._members.values():
                member.heard += stood_still
        self._last_sweep = now
        gone = [m for m in self._members.values() if now - m.heard > LEASE_SECONDS]
        for member in gone:
            del self._members[member.id]
        return gone

    def all(self) -> Iterable[Member]:
        """Everybody, by kind and index."""
        return sorted(self._members.values(), key=lambda member: (member.kind, member.index))

    def of_kind(self, kind: pb.MemberKind.ValueType) -> list[Member]:
        """The members of a kind."""
        return [member for member in self._members.values() if member.kind == kind]

    def _index(self, request: pb.RegisterRequest) -> int:
        taken = {member.index for member in self.of_kind(request.kind)}
        if request.HasField("index") and request.index not in taken:
            return min(request.index, MAX_MEMBERS)
        return next(index for index in range(len(taken) + 1) if index not in taken)


def _check_stats(report: pb.HeartbeatRequest) -> None:
    """Refuse what would spoil every sum and quotient that it goes into."""
    kind = report.WhichOneof("stats")
    for number, value in [] if kind is None else getattr(report, kind).ListFields():
        if number.cpp_type != number.CPPTYPE_DOUBLE:
            continue  # whole numbers cannot be wrong
        if number.name in _ANY_SIGN:
            if not math.isfinite(value):
                raise Refusal(INVALID, f"{number.name} is {value}")
        elif not 0 <= value <= MAX_FIGURE:
            raise Refusal(INVALID, f"{number.name} is {value}, not from 0 to {MAX_FIGURE:g}")


def _work(report: pb.HeartbeatRequest) -> Work:
    if report.WhichOneof("stats") == "learner":
        return Work(report.learner.frames_since_start, report.learner.busy_seconds)
    return Work(report.actor.frames, report.actor.busy_seconds)
