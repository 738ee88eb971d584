"""Gymnasium vector environments: all slots are one environment."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from numpy.typing import NDArray

from pronk.envs.actions import ActionLayout
from pronk.envs.failures import ERRORS, Failures, Tell, Unusable, failure, keep_quiet, persist
from pronk.envs.inspection import Inspector
from pronk.envs.masks import MASK, mask_row
from pronk.envs.observations import ObservationLayout
from pronk.envs.slots import Arrays, Observation, StepResult
from pronk.envs.watchdog import Watchdog, ending
from pronk.errors import Misconfigured
from pronk.wire.spec import EnvironmentSpec

Vector = VectorEnv[Any, Any, Any]


class VectorSlots:
    """A Gymnasium vector environment that resets on the next step.

    When it raises, or one of its slots shows what its space does not allow, a new one takes its
    place: all slots failed. When it does not come back, the process ends.
    """

    _in_this_process = True

    def __init__(
        self,
        name: str,
        build: Callable[[], Vector],
        seeds: NDArray[np.int64],
        step_seconds: float,
        *,
        as_seed: Callable[[NDArray[np.int64]], Any],
        frames_per_step: int = 1,
        tell: Tell = keep_quiet,
    ) -> None:
        """Build it and reset it with its seeds.

        Args:
            name: the environment's.
            build: makes one of N slots.
            seeds: [N]
            step_seconds: a step that takes longer hangs.
            as_seed: seeds in the form that it takes.
            frames_per_step: environment frames per decision.
            tell: hears of every failure.

        Raises:
            Misconfigured: it does not reset on the next step, or its spaces cannot be represented.
            Broken: it fails again and again.
        """
        self._name, self._build, self._as_seed = name, build, as_seed
        self._later_seeds = np.random.default_rng(seeds)
        self._step_seconds = step_seconds
        self._failures = Failures(name, tell)
        self._watchdog = Watchdog(step_seconds, ending(name, step_seconds, tell))
        self._slots = len(seeds)
        self._env = env = build()
        mode = env.metadata.get("autoreset_mode")
        if mode is not AutoresetMode.NEXT_STEP:
            raise Misconfigured(
                f"env.vectorization: {name}'s own vector environment resets by {mode}, not on the "
                "next step; choose sync"
            )
        self._observations = ObservationLayout(env.single_observation_space)
        self._actions = ActionLayout(env.single_action_space)
        self._inspector = Inspector(self._observations.specs, self._actions.specs)
        self._mask_size: int | None = None
        obs, info = self._started(seeds)
        self._note(info)
        self._spec = EnvironmentSpec(
            environment=name,
            observation=self._observations.specs,
            action=self._actions.specs,
            action_mask=MASK in info,
            frames_per_step=frames_per_step,
        )
        if self._spec.action_mask:
            self._mask_size = self._spec.mask_size
        self._first: Observation | None = Observation(obs, self._masks(info))

    @property
    def spec(self) -> EnvironmentSpec:
        """What the slots show and take."""
        return self._spec

    @property
    def slots(self) -> int:
        """N."""
        return self._slots

    def reset(self) -> Observation:
        """Start new episodes in all slots; the first call returns the seeded ones."""
        if self._in_this_process:
            self._watchdog.start()
        if self._first is not None:
            observation, self._first = self._first, None
            return observation
        self._failures.stepped()
        with self._watchdog:
            obs, info = self._started(None)
        self._note(info)
        return Observation(obs, self._masks(info))

    def step(self, action: Arrays) -> StepResult:
        """Act once in every slot; see `SlotEnv`."""
        batch = self._actions.batch(action)
        self._failures.stepped()
        with self._watchdog:
            try:
                seen, reward, terminated, truncated, info = self._act(batch)
                result = self._result(seen, reward, terminated, truncated, info)
            except ERRORS as error:
                obs, info = self._renewed(error)
                never = np.zeros(self.slots, np.bool_)
                reward = never.astype(np.float32)
                result = StepResult(obs, reward, never, never, self._masks(info), ~never)
        self._note(info)
        return result

    def close(self) -> None:
        """Close the environments."""
        self._watchdog.close()
        self._abandon()

    def _act(self, batch: Any) -> tuple[Any, ...]:
        return self._env.step(batch)

    def _look(self, seeds: NDArray[np.int64] | None) -> tuple[Any, dict[str, Any]]:
        """Reset all slots; what they show."""
        return self._env.reset(seed=None if seeds is None else self._as_seed(seeds))

    def _abandon(self) -> None:
        """Close it, whatever state it is in."""
        with suppress(*ERRORS):
            self._env.close()

    def _failed(self, info: dict[str, Any]) -> NDArray[np.bool_] | None:
        """[N] slots that have new environments of their own."""
        return None

    def _note(self, info: dict[str, Any]) -> None:
        """Take note of them."""

    def _result(
        self, obs: Any, reward: Any, terminated: Any, truncated: Any, info: dict[str, Any]
    ) -> StepResult:
        result = StepResult(
            self._observations.arrays(obs, self.slots),
            np.asarray(reward, np.float32),
            terminated,
            truncated,
            self._masks(info),
            self._failed(info),
        )
        ended = None if result.action_mask is None else terminated | truncated
        self._check(result.obs, result.reward, result.action_mask, ended)
        return result

    def _started(self, seeds: NDArray[np.int64] | None) -> tuple[Arrays, dict[str, Any]]:
        try:
            return self._reset(seeds)
        except ERRORS as error:
            return self._renewed(error)

    def _renewed(self, error: BaseException) -> tuple[Arrays, dict[str, Any]]:
        """Take a new environment; what its slots show, and their infos."""
        return persist(error, lambda why: self._failures.add(failure(None, why)), self._replace)

    def _replace(self) -> tuple[Arrays, dict[str, Any]]:
        self._abandon()
        self._env = self._build()
        return self._reset(self._later_seeds.integers(2**31, size=self.slots))

    def _reset(self, seeds: NDArray[np.int64] | None) -> tuple[Arrays, dict[str, Any]]:
        seen, info = self._look(seeds)
        obs = self._observations.arrays(seen, self.slots)
        self._check(obs, np.zeros(self.slots, np.float32), self._masks(info))
        return obs, info

    def _check(
        self,
        obs: Arrays,
        reward: NDArray[np.float32],
        action_mask: NDArray[np.bool_] | None,
        ended: NDArray[np.bool_] | None = None,
    ) -> None:
        for slot, fault in self._inspector.faults(obs, reward, action_mask, ended).items():
            raise Unusable(fault.reason, f"slot {slot}: {fault}")

    def _masks(self, info: dict[str, Any]) -> NDArray[np.bool_] | None:
        """[N, A] from Gymnasium's batched info: absent rows are marked under `_action_mask`."""
        if self._mask_size is None:
            return None
        size = self._mask_size
        if MASK not in info:
            return np.ones((self.slots, size), np.bool_)
        present = info.get(f"_{MASK}", np.ones(self.slots, np.bool_))
        rows = zip(info[MASK], present, strict=True)
        return np.stack([mask_row(row if there else None, size) for row, there in rows])


def native(env_id: str, slots: int, kwargs: dict[str, Any]) -> Vector:
    """The vector implementation that a Gymnasium environment brings along."""
    return gymnasium.make_vec(env_id, slots, vectorization_mode="vector_entry_point", **kwargs)
