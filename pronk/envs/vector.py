"""Gymnasium vector environments: native implementations, and one process per slot."""

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from numpy.typing import NDArray

from pronk.envs.actions import ActionLayout
from pronk.envs.masks import MASK, mask_row
from pronk.envs.observations import ObservationLayout
from pronk.envs.slots import Arrays, Observation, StepResult
from pronk.errors import Misconfigured
from pronk.wire.spec import EnvironmentSpec


class VectorSlots:
    """A Gymnasium vector environment that resets on the next step."""

    def __init__(
        self,
        name: str,
        env: VectorEnv[Any, Any, Any],
        seed: int | Sequence[int] | NDArray[np.int64],
        frames_per_step: int = 1,
    ) -> None:
        """Reset `env` with `seed`, in the form that it takes.

        Raises:
            Misconfigured: it does not reset on the next step, or its spaces cannot be represented.
        """
        mode = env.metadata.get("autoreset_mode")
        if mode is not AutoresetMode.NEXT_STEP:
            raise Misconfigured(
                f"env.vectorization: {name}'s own vector environment resets by {mode}, not on the "
                "next step; choose sync"
            )
        self._env = env
        self._observations = ObservationLayout(env.single_observation_space)
        self._actions = ActionLayout(env.single_action_space)
        obs, info = env.reset(seed=seed)  # type: ignore[arg-type] # some take arrays of seeds
        self._spec = EnvironmentSpec(
            environment=name,
            observation=self._observations.specs,
            action=self._actions.specs,
            action_mask=MASK in info,
            frames_per_step=frames_per_step,
        )
        self._first: Observation | None = Observation(
            self._observations.arrays(obs), self._masks(info)
        )

    @property
    def spec(self) -> EnvironmentSpec:
        """What the slots show and take."""
        return self._spec

    @property
    def slots(self) -> int:
        """N."""
        return self._env.num_envs

    def reset(self) -> Observation:
        """Start new episodes in all slots; the first call returns the seeded ones."""
        if self._first is not None:
            observation, self._first = self._first, None
            return observation
        obs, info = self._env.reset()
        return Observation(self._observations.arrays(obs), self._masks(info))

    def step(self, action: Arrays) -> StepResult:
        """Act once in every slot; see `SlotEnv`."""
        obs, reward, terminated, truncated, info = self._env.step(self._actions.batch(action))
        return StepResult(
            self._observations.arrays(obs),
            np.asarray(reward, np.float32),
            terminated,
            truncated,
            self._masks(info),
        )

    def close(self) -> None:
        """Close the environments."""
        self._env.close()

    def _masks(self, info: dict[str, Any]) -> NDArray[np.bool_] | None:
        """[N, A] from Gymnasium's batched info: absent rows are marked under `_action_mask`."""
        if not self._spec.action_mask:
            return None
        size = self._spec.mask_size
        if MASK not in info:
            return np.ones((self.slots, size), np.bool_)
        present = info.get(f"_{MASK}", np.ones(self.slots, np.bool_))
        rows = zip(info[MASK], present, strict=True)
        return np.stack([mask_row(row if there else None, size) for row, there in rows])


def native(env_id: str, slots: int, kwargs: dict[str, Any]) -> VectorEnv[Any, Any, Any]:
    """The vector implementation that a Gymnasium environment brings along."""
    return gymnasium.make_vec(env_id, slots, vectorization_mode="vector_entry_point", **kwargs)
