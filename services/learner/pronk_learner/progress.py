"""How far the run has come, and whether it is over."""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from pronk.config.schema import StopConfig
from pronk.wire.unroll import Episode
from pronk_learner.checkpoint import Counters

_SUMMARY_EPISODES = 100
_RATE_WINDOW = 10.0


@dataclass(frozen=True)
class Outlook:
    """Share of the way to the stop condition, and seconds left where they can be told."""

    progress: float | None
    seconds_left: float | None


class Progress:
    """Counts what was learned; `counters` is what a checkpoint keeps of it."""

    def __init__(self, stop: StopConfig, counters: Counters) -> None:
        self._stop = stop
        self.counters = counters
        window = max(_SUMMARY_EPISODES, stop.return_episodes)
        self._returns = deque(counters.returns, maxlen=window)
        self._recent: deque[tuple[float, int, int]] = deque()

    def applied(self, steps: int, frames: int, lag: float) -> None:
        """Count an applied update of `steps` valid transitions with a mean lag."""
        self.counters.steps += steps
        self.counters.frames += frames
        self.counters.updates += 1
        self.counters.lag_sum += lag

    def finished(self, episodes: Iterable[Episode]) -> None:
        """Count finished episodes."""
        for episode in episodes:
            self._returns.append(episode.episode_return)
            self.counters.episodes += 1
        self.counters.returns = list(self._returns)

    def tick(self, seconds: float) -> None:
        """Say how long the run has been trained, resumed parts included."""
        self.counters.seconds = seconds
        self._recent.append((seconds, self.counters.steps, self.counters.frames))
        while seconds - self._recent[0][0] > _RATE_WINDOW:
            self._recent.popleft()

    def return_mean(self, episodes: int = _SUMMARY_EPISODES) -> float | None:
        """Mean return of the newest finished episodes, at most `episodes`; None of none."""
        newest = list(self._returns)[-episodes:]
        return sum(newest) / len(newest) if newest else None

    @property
    def mean_lag(self) -> float | None:
        """Mean over all updates."""
        return self.counters.lag_sum / self.counters.updates if self.counters.updates else None

    @property
    def steps_per_second(self) -> float | None:
        """Over the last ten seconds."""
        return self._rate(1)

    def _rate(self, column: int) -> float | None:
        if len(self._recent) < 2:
            return None
        first, last = self._recent[0], self._recent[-1]
        elapsed = last[0] - first[0]
        return (last[column] - first[column]) / elapsed if elapsed > 0 else None

    def stop_reason(self) -> str | None:
        """Why the run is over, or None while it is not."""
        stop, counters = self._stop, self.counters
        mean = self.return_mean(stop.return_episodes)
        if (
            stop.return_mean is not None
            and mean is not None
            and len(self._returns) >= stop.return_episodes
            and mean >= stop.return_mean
        ):
            return f"return_mean reached {stop.return_mean:g}"
        if stop.frames is not None and counters.frames >= stop.frames:
            return f"frames reached {stop.frames}"
        if stop.seconds is not None and counters.seconds >= stop.seconds:
            return f"seconds reached {stop.seconds:g}"
        return None

    def outlook(self) -> Outlook:
        """How far the nearest stop condition is; a return's time cannot be told."""
        stop, counters = self._stop, self.counters
        shares: list[float] = []
        left: list[float] = []
        if stop.frames is not None:
            shares.append(counters.frames / stop.frames)
            if rate := self._rate(2):
                left.append(max(0.0, stop.frames - counters.frames) / rate)
        if stop.seconds is not None:
            shares.append(counters.seconds / stop.seconds)
            left.append(max(0.0, stop.seconds - counters.seconds))
        if stop.return_mean is not None and stop.return_mean > 0:
            mean = self.return_mean(stop.return_episodes)
            shares.append(max(0.0, mean or 0.0) / stop.return_mean)
        return Outlook(
            progress=min(1.0, max(shares)) if shares else None,
            seconds_left=min(left) if left else None,
        )
