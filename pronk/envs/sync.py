"""Single environments stepped one after the other in this process."""

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from pronk.envs.actions import ActionLayout
from pronk.envs.masks import MASK, mask_row
from pronk.envs.observations import ObservationLayout
from pronk.envs.registry import building
from pronk.envs.single import frames_per_step
from pronk.envs.slots import Arrays, Observation, StepResult
from pronk.errors import Misconfigured
from pronk.wire.spec import EnvironmentSpec


class SyncSlots:
    """N Gymnasium environments in a plain loop, without SyncVectorEnv's copies and checks."""

    def __init__(
        self, name: str, envs: Sequence[gymnasium.Env[Any, Any]], seeds: Sequence[int]
    ) -> None:
        """Reset every environment with its seed.

        Raises:
            Misconfigured: spaces that cannot be represented.
        """
        self._envs = list(envs)
        first = self._envs[0]
        self._observations = ObservationLayout(first.observation_space)
        self._actions = ActionLayout(first.action_space)
        self._obs = self._observations.empty(len(self._envs))
        self._write = self._observations.writer(self._obs)
        self._ended = [False] * len(self._envs)
        infos = [self._reset(i, seed) for i, seed in enumerate(seeds)]
        self._spec = EnvironmentSpec(
            environment=name,
            observation=self._observations.specs,
            action=self._actions.specs,
            action_mask=MASK in infos[0],
            frames_per_step=frames_per_step(first),
        )
        self._mask = self._empty_mask()
        self._write_masks(infos)
        self._fresh = True

    @property
    def spec(self) -> EnvironmentSpec:
        """What the slots show and take."""
        return self._spec

    @property
    def slots(self) -> int:
        """N."""
        return len(self._envs)

    def reset(self) -> Observation:
        """Start new episodes in all slots; the first call returns the seeded ones."""
        if not self._fresh:
            self._write_masks([self._reset(slot, None) for slot in range(self.slots)])
        self._fresh = False
        return Observation(self._obs, self._mask)

    def step(self, action: Arrays) -> StepResult:
        """Act once in every slot; see `SlotEnv`."""
        rewards = [0.0] * self.slots
        terminated = [False] * self.slots
        truncated = [False] * self.slots
        infos = []
        for slot, chosen in enumerate(self._actions.singles(action)):
            if self._ended[slot]:
                infos.append(self._reset(slot, None))
                continue
            obs, reward, terminated[slot], truncated[slot], info = self._envs[slot].step(chosen)
            rewards[slot] = float(reward)
            self._ended[slot] = bool(terminated[slot] or truncated[slot])
            self._write(slot, obs)
            infos.append(info)
        self._write_masks(infos)
        return StepResult(
            self._obs,
            np.array(rewards, np.float32),
            np.array(terminated, np.bool_),
            np.array(truncated, np.bool_),
            self._mask,
        )

    def render(self) -> NDArray[np.uint8]:
        """Slot 0 as an image [H, W, 3]; the environments were made with `rgb_array`.

        Raises:
            Misconfigured: the environment draws no pictures, or lacks a package for it.
        """
        with building(f"a picture of {self._spec.environment}"):
            picture = self._envs[0].render()
        if not isinstance(picture, np.ndarray):
            raise Misconfigured(f"{self._spec.environment} draws no pictures (rgb_array)")
        return picture if picture.dtype == np.uint8 else (picture * 255).astype(np.uint8)

    def close(self) -> None:
        """Close every environment."""
        for env in self._envs:
            env.close()

    def _reset(self, slot: int, seed: int | None) -> dict[str, Any]:
        obs, info = self._envs[slot].reset(seed=seed)
        self._write(slot, obs)
        self._ended[slot] = False
        return info

    def _empty_mask(self) -> NDArray[np.bool_] | None:
        if not self._spec.action_mask:
            return None
        return np.ones((self.slots, self._spec.mask_size), np.bool_)

    def _write_masks(self, infos: Sequence[dict[str, Any]]) -> None:
        if self._mask is not None:
            for slot, info in enumerate(infos):
                self._mask[slot] = mask_row(info.get(MASK), self._spec.mask_size)
