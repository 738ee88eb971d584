"""Episodes as actors report them: each start and end counts once. Pure: the clock is handed in."""

import math
from collections import deque
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from pronk.wire.bounds import MAX_RETURN
from pronk.wire.v1 import registry_pb2 as pb
from pronk_param_server.refusal import INVALID, Refusal

MAX_AGE_SECONDS = 24 * 3600.0
"""An episode open for longer is censored: neither finished nor lost."""
MAX_REPORTED = 10_000
"""Starts and ends in one report; an actor gathers no more."""
MAX_SLOT = 1 << 16
MEAN_OVER = 100
"""Newest episodes that the mean return is taken over."""

Group = tuple[str, pb.MemberKind.ValueType]
"""What is counted together: a policy, played by a kind of member."""


@dataclass
class _Counts:
    started: int = 0
    finished: int = 0
    lost: int = 0
    censored: int = 0
    returns: deque[float] = field(default_factory=lambda: deque(maxlen=MEAN_OVER))


MAX_GONE = 10_000
"""Members gone whose last report is remembered."""


@dataclass
class _Reporter:
    """A member's last sequence number and its open episodes: {slot: (number, group, since)}."""

    sequence: int = 0
    open: dict[int, tuple[int, Group, float]] = field(default_factory=dict)


class Episodes:
    """Counts by policy and kind of member, since the server's start.

    Args:
        policies: names that reports may carry.
    """

    def __init__(self, policies: Collection[str]) -> None:
        self._policies = policies
        self._counts: dict[Group, _Counts] = {}
        self._reporters: dict[str, _Reporter] = {}
        # Of members that went away, the newest: one that wakes may send its last report again.
        self._gone: dict[str, int] = {}

    def report(
        self, request: pb.ReportEpisodesRequest, kind: pb.MemberKind.ValueType, now: float
    ) -> list[Group]:
        """Count a report of a living member; one whose sequence was seen is ignored.

        Returns:
            The group of every end that was counted.

        Raises:
            Refusal: INVALID_ARGUMENT; nothing of the report was counted.
        """
        if request.sequence < 1:
            raise Refusal(INVALID, "reports count from 1")
        reporter = self._reporters.get(request.member)
        if reporter is None:
            reporter = _Reporter(self._gone.get(request.member, 0))
        if request.sequence <= reporter.sequence:
            return []  # before anything that takes long
        self._check(request)
        self._gone.pop(request.member, None)
        self._reporters[request.member] = reporter
        reporter.sequence = request.sequence
        # By slot and number, because a short episode starts and ends within one report.
        events = sorted(_events(request), key=lambda event: (event.slot, event.number))
        ended: list[Group] = []
        for event in events:
            group = (event.version.policy, kind)
            if isinstance(event, pb.EpisodeStart):
                self._start(reporter, event, group, now)
            else:
                self._end(reporter, event, group)
                ended.append(group)
        return ended

    def close(self, member: str) -> list[Group]:
        """A member is gone: its open episodes are lost. Returns their groups."""
        reporter = self._reporters.pop(member, None)
        if reporter is None:
            return []
        self._gone[member] = reporter.sequence
        while len(self._gone) > MAX_GONE:
            del self._gone[next(iter(self._gone))]
        lost = [group for _, group, _ in reporter.open.values()]
        for group in lost:
            self._of(group).lost += 1
        return lost

    def censor(self, now: float) -> list[Group]:
        """Close episodes beyond the maximum age. Returns their groups."""
        censored = []
        for reporter in self._reporters.values():
            old = [s for s, (_, _, t) in reporter.open.items() if now - t > MAX_AGE_SECONDS]
            for slot in old:
                _, group, _ = reporter.open.pop(slot)
                self._of(group).censored += 1
                censored.append(group)
        return censored

    def summaries(self) -> Iterable[pb.EpisodeSummary]:
        """The counts, for status."""
        for (policy, kind), counts in sorted(self._counts.items()):
            summary = pb.EpisodeSummary(
                policy=policy,
                kind=kind,
                started=counts.started,
                finished=counts.finished,
                lost=counts.lost,
                censored=counts.censored,
            )
            if counts.returns:
                summary.return_mean = math.fsum(counts.returns) / len(counts.returns)
            yield summary

    def _start(self, reporter: _Reporter, event: pb.EpisodeStart, group: Group, now: float) -> None:
        self._of(group).started += 1
        before = reporter.open.get(event.slot)
        if before is not None:  # its end never came
            self._of(before[1]).lost += 1
        reporter.open[event.slot] = (event.number, group, now)

    def _end(self, reporter: _Reporter, event: pb.EpisodeEnd, group: Group) -> None:
        counts = self._of(group)
        counts.finished += 1
        counts.returns.append(getattr(event, "return"))
        current = reporter.open.get(event.slot)
        if current is not None and current[0] <= event.number:
            del reporter.open[event.slot]

    def _of(self, group: Group) -> _Counts:
        return self._counts.setdefault(group, _Counts())

    def _check(self, request: pb.ReportEpisodesRequest) -> None:
        if len(request.starts) + len(request.ends) > MAX_REPORTED:
            raise Refusal(INVALID, f"a report holds at most {MAX_REPORTED} starts and ends")
        for event in _events(request):
            if event.version.policy not in self._policies:
                raise Refusal(INVALID, f"no policy {event.version.policy!r}")
            if event.slot >= MAX_SLOT:
                raise Refusal(INVALID, f"slot {event.slot} is not below {MAX_SLOT}")
        # Not so either where it is no number.
        if not all(abs(getattr(end, "return")) <= MAX_RETURN for end in request.ends):
            raise Refusal(INVALID, f"a return is not within ±{MAX_RETURN:g}")


def _events(request: pb.ReportEpisodesRequest) -> list[pb.EpisodeStart | pb.EpisodeEnd]:
    return [*request.starts, *request.ends]
