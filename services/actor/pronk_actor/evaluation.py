"""Plays whole episodes, a fixed number in each slot."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pronk.envs.slots import Arrays, SlotEnv, StepResult
from pronk_actor.agent import Agent
from pronk_actor.episodes import Ended, EpisodeTracker


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
) -> dict[str, list[Ended]]:
    """Reset all slots and play until each has finished its episodes.

    Args:
        env: all slots.
        parts: who plays where; together they cover the slots, in order.
        episodes: [N] to play in each slot; what a slot plays beyond them does not count.
        stop: ends the play early; what has ended by then is returned.
        number: of the episodes that begin now.
        beat: called with every step.

    Returns:
        {policy: its episodes, in the order in which they ended}
    """
    spec = env.spec
    numbers = np.arange(env.slots, dtype=np.int32)
    trackers = [EpisodeTracker(numbers[p.where], spec.frames_per_step, number) for p in parts]
    finished: dict[str, list[Ended]] = {part.policy: [] for part in parts}
    left = episodes.copy()
    obs, mask = env.reset()
    for part in parts:
        part.agent.restart()
    dead = np.zeros(env.slots, np.bool_)
    while (left > 0).any() and not stop.is_set():
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
                if left[end.episode.slot] > 0:
                    left[end.episode.slot] -= 1
                    finished[part.policy].append(end)
        dead = result.terminated | result.truncated
        obs, mask = result.obs, result.action_mask
    return finished


def joined(parts: Sequence[Arrays]) -> Arrays:
    """Actions of neighbouring slots side by side, {name: [N, …]}."""
    if len(parts) == 1:
        return parts[0]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _advance(
    part: Part,
    tracker: EpisodeTracker,
    choice: Arrays,
    result: StepResult,
    dead: NDArray[np.bool_],
) -> list[Ended]:
    reward, was_dead = result.reward[part.where].copy(), dead[part.where]
    part.agent.observe(choice, reward, was_dead)
    ended = result.terminated[part.where] | result.truncated[part.where]
    return tracker.advance(
        reward[None], ~was_dead[None], ended[None], part.agent.policy.version, part.agent.task
    )
