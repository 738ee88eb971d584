"""When a run is over, and what it says of itself."""

import pytest
from pronk_learner.checkpoint import Counters
from pronk_learner.progress import Progress

from pronk.config.schema import StopConfig
from pronk.wire.unroll import Episode


def episodes(*returns: float) -> list[Episode]:
    return [Episode(value, 1, 1, 0, 0, number) for number, value in enumerate(returns)]


def test_a_return_is_reached_only_by_enough_episodes() -> None:
    progress = Progress(StopConfig(return_mean=5, return_episodes=3), Counters())
    progress.finished(episodes(9, 9))
    assert progress.stop_reason() is None
    progress.finished(episodes(-3.1))
    assert progress.stop_reason() is None  # mean 4.97
    progress.finished(episodes(9, 9, 9))
    assert progress.stop_reason() == "return_mean reached 5"


def test_frames_and_seconds_end_a_run() -> None:
    progress = Progress(StopConfig(frames=100, seconds=7), Counters())
    progress.applied(steps=25, frames=99, lag=1.0)
    progress.tick(3.0)
    assert progress.stop_reason() is None
    progress.tick(7.0)
    assert progress.stop_reason() == "seconds reached 7"
    progress.applied(steps=1, frames=1, lag=2.0)
    assert progress.stop_reason() == "frames reached 100"
    assert progress.mean_lag == pytest.approx(1.5)


def test_nothing_set_never_ends() -> None:
    progress = Progress(StopConfig(), Counters())
    progress.applied(10**9, 10**9, 0.0)
    progress.tick(1e9)
    assert progress.stop_reason() is None
    assert progress.outlook().progress is None


def test_rates_and_time_left_come_from_the_last_seconds() -> None:
    progress = Progress(StopConfig(frames=1000), Counters())
    for second in range(30):
        progress.applied(steps=5, frames=10, lag=0.0)
        progress.tick(float(second))
    assert progress.steps_per_second == pytest.approx(5.0)
    assert progress.outlook().seconds_left == pytest.approx(70.0)
    assert progress.outlook().progress == pytest.approx(0.3)


def test_a_resumed_run_remembers_its_returns() -> None:
    progress = Progress(StopConfig(return_mean=2, return_episodes=2), Counters())
    progress.finished(episodes(1, 3))
    resumed = Progress(StopConfig(return_mean=2, return_episodes=2), progress.counters)
    assert resumed.stop_reason() is not None
    assert resumed.return_mean() == 2.0
