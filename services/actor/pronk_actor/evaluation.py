"""Plays whole episodes, a fixed number in each slot."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pronk.envs.slots import Arrays, SlotEnv, StepResult, joined
from pronk.errors import Broken
from pronk_actor.agent import Agent
from pronk_actor.episodes import Ended, EpisodeTracker

_MOST_LOST = 20
"""Episodes of a slot that environments may lose in a row."""


@dataclass(frozen=True)
class Part:
    """A policy's slots of an evaluation."""

    policy: str
    where: slice
    agent: Agent


def quota(episodes: int, slots: int) -> NDArray[np.int64]:
    """Episodes of each slot, [slots], `episodes` in all, shared out as evenly as can be.

    They are fixed before anything is played: taking the first episodes that end, wherever they do,
    would favour short ones.
    """
    share, rest = divmod(episodes, slots)
    return share + (np.arange(slots) < rest)


def play_episodes(
    env: SlotEnv,
    parts: Sequence[Part],
    episodes: NDArray[np.int64],
    stop: threading.Event,
    *,
    number: int = 0,
    beat: Callable[[], None] | None = None,
    lost: Callable[[str, int, int], None] | None = None,
) -> dict[str, list[Ended]]:
    """Reset all slots and play until each has finished its episodes.

    An episode whose environment fails does not count; another is played in its stead.

    Args:
        env: all slots.
        parts: who plays where; together they cover the slots, in order.
        episodes: [N] to play in each slot; what a slot plays beyond them does not count.
        stop: ends the play early; what has ended by then is returned.
        number: of the episodes that begin now.
        beat: called with every step.
        lost: called with policy, slot and number of an episode whose environment failed.

    Returns:
        {policy: its episodes, in the order in which they ended}

    Raises:
        Broken: an environment fails too often for its episodes to be finished.
    """
    spec = env.spec
    numbers = np.arange(env.slots, dtype=np.int32)
    trackers = [EpisodeTracker(numbers[p.where], spec.frames_per_step, number) for p in parts]
    finished: dict[str, list[Ended]] = {part.policy: [] for part in parts}
    tally = _Tally(spec.environment, episodes)
    obs, mask = env.reset()
    for part in parts:
        part.agent.restart()
    dead = np.zeros(env.slots, np.bool_)
    while tally.left.any() and not stop.is_set():
        if beat is not None:
            beat()
        choices = [
            part.agent.act(
                {name: array[part.where] for name, array in obs.items()},
                None if mask is None else mask[part.where],
            ).action
            for part in parts
        ]
        result = env.step(joined(choices))
        for part, tracker, choice in zip(parts, trackers, choices, strict=True):
            for end in _advance(part, tracker, choice, result, dead):
                if tally.ended(end.episode.slot):
                    finished[part.policy].append(end)
            for slot, which in tracker.lost:
                if tally.lost(slot) and lost is not None:
                    lost(part.policy, slot, which)
        dead = result.terminated | result.truncated
        obs, mask = result.obs, result.action_mask
    return finished


class _Tally:
    """Episodes that are still to be played.

    Attributes:
        left: [N]
    """

    def __init__(self, environment: str, episodes: NDArray[np.int64]) -> None:
        self.left = episodes.copy()
        self._environment = environment
        self._lost_in_a_row = np.zeros(len(episodes), np.int64)

    def ended(self, slot: int) -> bool:
        """An episode of the slot ended; whether it counts."""
        counts = bool(self.left[slot])
        self.left[slot] -= counts
        self._lost_in_a_row[slot] = 0
        return counts

    def lost(self, slot: int) -> bool:
        """The environment failed in an episode of the slot; whether it would have counted."""
        counts = bool(self.left[slot])
        self._lost_in_a_row[slot] += counts
        if self._lost_in_a_row[slot] >= _MOST_LOST:
            raise Broken(
                f"environment {self._environment} (slot {slot}) failed in {_MOST_LOST} episodes in "
                "a row, too often for one to end"
            )
        return counts


def _advance(
    part: Part,
    tracker: EpisodeTracker,
    choice: Arrays,
    result: StepResult,
    dead: NDArray[np.bool_],
) -> list[Ended]:
    reward = result.reward[part.where].copy()
    was_dead = result.dead(dead[part.where], part.where)
    part.agent.observe(choice, reward, was_dead)
    ended = result.terminated[part.where] | result.truncated[part.where]
    return tracker.advance(
        reward[None], ~was_dead[None], ended[None], part.agent.policy.version, part.agent.task
    )
