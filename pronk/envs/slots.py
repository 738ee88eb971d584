"""What an actor steps: N environment slots behind one interface."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from pronk.wire.spec import EnvironmentSpec

Arrays = dict[str, NDArray[Any]]


class Observation(NamedTuple):
    """What N slots show. The arrays belong to the environment and last until its next step."""

    obs: Arrays
    """{name: [N, …]} as the spec says."""
    action_mask: NDArray[np.bool_] | None
    """[N, A] allowed choices, over the logits of all discrete actions; None without masks."""


class StepResult(NamedTuple):
    """What followed an action of N slots. The arrays last until the next step."""

    obs: Arrays
    """{name: [N, …]}"""
    reward: NDArray[np.float32]
    """[N] raw; 0 on the reset transition."""
    terminated: NDArray[np.bool_]
    """[N]"""
    truncated: NDArray[np.bool_]
    """[N]"""
    action_mask: NDArray[np.bool_] | None
    """[N, A], see `Observation`."""
    failed: NDArray[np.bool_] | None = None
    """[N] the environment failed, see `SlotEnv`; None where none did."""

    def dead(self, ended: NDArray[np.bool_], where: slice) -> NDArray[np.bool_]:
        """Of slots `where`: the step leads to the first observation of an episode.

        Args:
            ended: [N] the step before ended an episode.
            where: the slots.
        """
        return ended if self.failed is None else ended | self.failed[where]


class SlotEnv(Protocol):
    """N environments that reset themselves on the step after the end of an episode.

    Gymnasium's NEXT_STEP rule, in every implementation: the step that ends an episode returns the
    true final observation; the next step ignores its action and returns the reset observation with
    reward 0 and both flags False.

    A slot whose environment fails (it raises, hangs, shows what its spec does not allow) gets a new
    one in the same step, which for this slot is like a reset: its action counts for nothing, and
    what it returns is the first observation of the new environment, reward 0 and both flags False.
    """

    @property
    def spec(self) -> EnvironmentSpec:
        """What the slots show and take."""

    @property
    def slots(self) -> int:
        """N."""

    def reset(self) -> Observation:
        """Start new episodes in all slots; the first call uses the seed.

        Raises:
            Broken: the environment fails again and again.
        """

    def step(self, action: Arrays) -> StepResult:
        """Act once in every slot.

        Args:
            action: {name: [N, …]} as a policy chose it: discrete choices counted from 0,
                continuous actions around [-1, 1] (mapped onto the bounds of the space here).

        Raises:
            Broken: the environment fails again and again.
        """

    def close(self) -> None:
        """Give back processes and emulators."""


class Recorder(SlotEnv, Protocol):
    """One slot that can be looked at."""

    def render(self) -> NDArray[np.uint8]:
        """What it looks like now, [H, W, 3]."""


def joined(parts: Sequence[Arrays]) -> Arrays:
    """Actions of neighbouring slots side by side, {name: [N, …]}."""
    if len(parts) == 1:
        return parts[0]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
