"""`actor_demand`: finite and positive, or absent."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pronk_param_server.demand import MIN_BUSY_SECONDS, Work, actor_demand

ACTOR = Work(frames=1000, busy_seconds=10)  # 100 frames/s
LEARNER = Work(frames=5000, busy_seconds=10)  # 500 frames/s


def test_capacity_over_what_one_actor_plays() -> None:
    assert actor_demand(LEARNER, [ACTOR]) == pytest.approx(5)


def test_number_of_living_actors_does_not_matter() -> None:
    assert actor_demand(LEARNER, [ACTOR] * 7) == pytest.approx(5)


def test_unequal_actors_count_with_their_mean_rate() -> None:
    assert actor_demand(LEARNER, [ACTOR, Work(3000, 10)]) == pytest.approx(500 / 200)


def test_time_spent_waiting_is_left_out() -> None:
    # Twice as many frames in twice the time of work: as fast, however long it was blocked.
    assert actor_demand(LEARNER, [Work(2000, 20)]) == pytest.approx(5)


def test_an_actor_that_plays_several_policies_counts_in_part() -> None:
    assert actor_demand(LEARNER, [ACTOR], share=0.25) == pytest.approx(20)


@pytest.mark.parametrize(
    ("learner", "actors"),
    [
        (LEARNER, []),
        (LEARNER, [Work(0, 10)]),
        (LEARNER, [Work(1000, 0)]),
        (LEARNER, [Work(1000, MIN_BUSY_SECONDS / 2)]),
        (Work(0, 10), [ACTOR]),
        (Work(0, 0), [ACTOR]),
        (Work(100, MIN_BUSY_SECONDS / 2), [ACTOR]),
    ],
)
def test_absent_when_it_cannot_be_told(learner: Work, actors: list[Work]) -> None:
    assert actor_demand(learner, actors) is None


def test_an_actor_without_a_rate_yet_is_left_out() -> None:
    assert actor_demand(LEARNER, [ACTOR, Work(0, 0)]) == pytest.approx(5)


counts = st.integers(0, 2**53).map(float)
seconds = st.floats(0, 1e9, allow_nan=False)
work = st.builds(Work, counts, seconds)


@given(work, st.lists(work, max_size=5), st.floats(1e-3, 1))
def test_never_nan_never_infinite(learner: Work, actors: list[Work], share: float) -> None:
    demand = actor_demand(learner, actors, share)
    assert demand is None or (math.isfinite(demand) and demand > 0)
