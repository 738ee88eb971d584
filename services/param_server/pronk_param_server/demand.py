"""How many actors the learners could keep up with."""

from collections.abc import Sequence
from dataclasses import dataclass

MIN_BUSY_SECONDS = 1.0
"""Less work than this tells no rate."""


@dataclass(frozen=True)
class Work:
    """Environment frames, and the seconds of work (waiting left out) that they took."""

    frames: float
    busy_seconds: float

    @property
    def rate(self) -> float | None:
        """Frames per second of work; None when it cannot be told."""
        if self.busy_seconds < MIN_BUSY_SECONDS or self.frames <= 0:
            return None
        return self.frames / self.busy_seconds


def actor_demand(learner: Work, actors: Sequence[Work], share: float = 1.0) -> float | None:
    """Actors that one policy's learner could keep up with.

    Actors produce, so the length of the buffer says nothing about how many are needed: it is full
    with too many and empty with too few. The demand is what the learner could train, were it never
    starved, over what one actor could play, were it never blocked.

    Args:
        learner: frames trained, and its busy seconds.
        actors: frames played for all policies, and busy seconds, by actor.
        share: share of an actor's frames that belong to the policy, in (0, 1].

    Returns:
        Positive and finite; None when it cannot be told, for lack of a learner's or any actor's
        rate.
    """
    capacity = learner.rate
    rates = [rate for actor in actors if (rate := actor.rate) is not None]
    if capacity is None or not rates:
        return None
    return capacity / (share * sum(rates) / len(rates))
