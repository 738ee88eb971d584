"""Counting episodes: once each, whatever is repeated, lost or late."""

import math

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pronk_actor.reports import MAX_WAITING
from pronk_param_server.episodes import MAX_AGE_SECONDS, MAX_REPORTED, MEAN_OVER, Episodes
from pronk_param_server.refusal import Refusal

from pronk.wire.bounds import MAX_RETURN
from pronk.wire.v1 import registry_pb2 as pb

TRAIN, EVALUATE = pb.MEMBER_KIND_TRAIN, pb.MEMBER_KIND_EVALUATE


def start(number: int, slot: int = 0, policy: str = "red") -> pb.EpisodeStart:
    return pb.EpisodeStart(version=pb.Version(policy=policy), slot=slot, number=number)


def end(number: int, value: float = 1.0, slot: int = 0, policy: str = "red") -> pb.EpisodeEnd:
    return pb.EpisodeEnd(
        version=pb.Version(policy=policy), slot=slot, number=number, **{"return": value}
    )


def report(
    episodes: Episodes,
    sequence: int,
    *events: pb.EpisodeStart | pb.EpisodeEnd,
    member: str = "train-a",
    kind: pb.MemberKind.ValueType = TRAIN,
    now: float = 0.0,
) -> None:
    starts = [event for event in events if isinstance(event, pb.EpisodeStart)]
    ends = [event for event in events if isinstance(event, pb.EpisodeEnd)]
    request = pb.ReportEpisodesRequest(member=member, sequence=sequence, starts=starts, ends=ends)
    episodes.report(request, kind, now)


def only(episodes: Episodes) -> pb.EpisodeSummary:
    [summary] = episodes.summaries()
    return summary


def test_counts_and_mean() -> None:
    episodes = Episodes(["red"])
    report(episodes, 1, start(0), end(0, 2.0), start(1))
    report(episodes, 2, end(1, 4.0))
    summary = only(episodes)
    assert (summary.started, summary.finished, summary.lost) == (2, 2, 0)
    assert summary.return_mean == 3.0


def test_returns_as_large_as_they_may_be_have_a_mean() -> None:
    episodes = Episodes(["red"])
    report(episodes, 1, *(end(number, MAX_RETURN) for number in range(MEAN_OVER)))
    assert only(episodes).return_mean == MAX_RETURN


def test_returns_that_have_no_mean_are_refused() -> None:
    episodes = Episodes(["red"])
    with pytest.raises(Refusal, match=r"a return is not within ±1e\+18"):
        report(episodes, 1, end(0, 1.7e308), end(1, 1.7e308))
    assert not list(episodes.summaries())


def test_a_report_twice_counts_once() -> None:
    episodes = Episodes(["red"])
    report(episodes, 1, start(0), end(0))
    report(episodes, 1, start(0), end(0))
    report(episodes, 3, start(1))
    report(episodes, 2, start(1), end(1))
    assert (only(episodes).started, only(episodes).finished) == (2, 1)


def test_what_was_seen_is_not_looked_at_again() -> None:
    episodes = Episodes(["red"])
    report(episodes, 2, start(0), end(0))
    report(episodes, 2, start(0, policy="unknown"))
    report(episodes, 1, start(0, policy="unknown"))
    episodes.close("train-a")
    report(episodes, 2, start(0, policy="unknown"))
    with pytest.raises(Refusal, match="no policy"):
        report(episodes, 3, start(0, policy="unknown"))
    report(episodes, 3, start(1))
    assert only(episodes).started == 2


def test_a_report_holds_all_that_an_actor_gathers() -> None:
    assert MAX_REPORTED == 2 * MAX_WAITING


def test_no_mean_of_nothing() -> None:
    episodes = Episodes(["red"])
    report(episodes, 1, start(0))
    assert not only(episodes).HasField("return_mean")


def test_mean_is_of_the_newest() -> None:
    episodes = Episodes(["red"])
    report(episodes, 1, *(end(n, 1000.0) for n in range(50)))
    report(episodes, 2, *(end(n, 5.0) for n in range(50, 50 + MEAN_OVER)))
    assert only(episodes).return_mean == 5.0


def test_members_that_go_away_lose_their_open_episodes() -> None:
    episodes = Episodes(["red", "blue"])
    report(episodes, 1, start(0), start(0, slot=1, policy="blue"), start(0, slot=2), end(0))
    assert sorted(episodes.close("train-a")) == [("blue", TRAIN), ("red", TRAIN)]
    assert episodes.close("train-a") == []
    lost = {summary.policy: summary.lost for summary in episodes.summaries()}
    assert lost == {"red": 1, "blue": 1}


def test_an_episode_whose_end_never_came_is_lost_when_the_next_starts() -> None:
    episodes = Episodes(["red"])
    report(episodes, 1, start(0))
    report(episodes, 2, start(1), end(1))
    summary = only(episodes)
    assert (summary.started, summary.finished, summary.lost) == (2, 1, 1)
    assert episodes.close("train-a") == []


def test_very_old_episodes_are_censored() -> None:
    episodes = Episodes(["red"])
    report(episodes, 1, start(0), now=0.0)
    report(episodes, 2, start(0, slot=1), now=100.0)
    episodes.censor(MAX_AGE_SECONDS + 1)
    summary = only(episodes)
    assert (summary.censored, summary.lost) == (1, 0)
    assert len(episodes.close("train-a")) == 1


def test_kinds_of_members_are_counted_apart() -> None:
    episodes = Episodes(["red"])
    report(episodes, 1, end(0, 1.0))
    report(episodes, 1, end(0, 9.0), member="evaluate-a", kind=EVALUATE)
    means = {summary.kind: summary.return_mean for summary in episodes.summaries()}
    assert means == {TRAIN: 1.0, EVALUATE: 9.0}


@pytest.mark.parametrize(
    ("sequence", "event"),
    [
        (0, end(0)),
        (1, end(0, math.nan)),
        (1, end(0, math.inf)),
        (1, end(0, 1.7e308)),
        (1, end(0, -1.1 * MAX_RETURN)),
        (1, end(0, policy="green")),
        (1, start(0, policy="")),
        (1, start(0, slot=1 << 20)),
    ],
)
def test_bad_reports_change_nothing(sequence: int, event: pb.EpisodeStart | pb.EpisodeEnd) -> None:
    episodes = Episodes(["red"])
    with pytest.raises(Refusal) as refusal:
        report(episodes, sequence, start(5), event)
    assert refusal.value.code == grpc.StatusCode.INVALID_ARGUMENT
    assert not list(episodes.summaries())


@given(st.lists(st.tuples(st.integers(0, 3), st.booleans()), max_size=60))
def test_every_start_is_finished_lost_or_open(plan: list[tuple[int, bool]]) -> None:
    """However reports are repeated, started = finished + lost + open."""
    episodes = Episodes(["red"])
    numbers = [0] * 4
    running = [False] * 4
    for sequence, (slot, ends) in enumerate(plan, 1):
        events: list[pb.EpisodeStart | pb.EpisodeEnd] = []
        if ends and running[slot]:
            events.append(end(numbers[slot], slot=slot))
            running[slot] = False
        elif not running[slot] or not ends:
            numbers[slot] += 1
            running[slot] = True
            events.append(start(numbers[slot], slot=slot))
        report(episodes, sequence, *events)
        report(episodes, sequence, *events)
    summaries = list(episodes.summaries())
    still_open = len(episodes.close("train-a"))
    for summary in summaries:
        assert summary.started == summary.finished + summary.lost + still_open
    assert still_open == sum(running)
