"""The unroll: T transitions of N slots, time-major, with T+1 observations.

Row t holds obs_t, what was computed from it and what followed. Environments reset themselves on
the step after the end of an episode: the final observation is a real row, and the transition out of
it has `valid = False`. Row t is the first of an episode where `reset` (row 0) or the row before it
(t > 0) says so: `reset_t = ~valid_{t-1}`.
"""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Arrays = dict[str, NDArray[Any]]
"""Arrays by name; names and shapes follow the environment's spec."""


@dataclass(frozen=True)
class UnrollHeader:
    """Where an unroll comes from; `member` and `sequence` identify it."""

    experiment_hash: str
    run: str
    policy: str
    member: str
    sequence: int


class Episode(NamedTuple):
    """A finished episode of one slot.

    `steps` counts agent decisions, `frames` environment frames (action repeat included), `number`
    the slot's episodes from 0.
    """

    episode_return: float
    steps: int
    frames: int
    task: int
    slot: int
    number: int


@dataclass
class Unroll:
    """One entry of the buffer. Shapes in brackets; T transitions, N slots."""

    header: UnrollHeader
    obs: Arrays
    """[T+1, N, …]"""
    action: Arrays
    """[T, N, …] as the policy chose it (before mapping to an environment's bounds)."""
    behaviour_log_prob: NDArray[np.float32]
    """[T, N] joint log-probability of all actions under the policy that acted."""
    reward: NDArray[np.float32]
    """[T, N] raw."""
    terminated: NDArray[np.bool_]
    """[T, N]"""
    truncated: NDArray[np.bool_]
    """[T, N]"""
    valid: NDArray[np.bool_]
    """[T, N] False on the reset transition."""
    task: NDArray[np.int32]
    """[T+1, N]"""
    behaviour_version: NDArray[np.int64]
    """[T, N] the number of the version that acted."""
    core_state: Arrays
    """{name: [N, …]} before row 0 and before its reset is applied; empty without a core."""
    last_action: Arrays
    """{name: [N, …]} the action before row 0; zero after a reset."""
    last_reward: NDArray[np.float32]
    """[N] the raw reward before row 0; zero after a reset."""
    reset: NDArray[np.bool_]
    """[N] row 0 is the first of an episode."""
    slot: NDArray[np.int32]
    """[N] the member's slot numbers."""
    action_mask: NDArray[np.bool_] | None = None
    """[T+1, N, A] allowed choices, over the concatenated logits of all discrete actions."""
    distribution: Arrays = field(default_factory=dict)
    """{action: [T, N, P]} the behaviour's distribution parameters; may be empty."""
    extras: Arrays = field(default_factory=dict)
    """{name: [T, N, …]}"""
    episodes: tuple[Episode, ...] = ()
    """Episodes that these slots finished in these rows."""

    @property
    def length(self) -> int:
        """T."""
        return len(self.reward)

    @property
    def slots(self) -> int:
        """N."""
        return len(self.slot)

    @property
    def steps(self) -> int:
        """Number of valid transitions."""
        return int(np.count_nonzero(self.valid))
