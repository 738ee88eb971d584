"""Single environments stepped one after the other in this process."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pronk.envs.actions import ActionLayout
from pronk.envs.failures import ERRORS, Failures, Tell, failure, keep_quiet, persist
from pronk.envs.inspection import Inspector
from pronk.envs.masks import MASK, mask_row
from pronk.envs.observations import ObservationLayout
from pronk.envs.registry import building
from pronk.envs.single import Env, frames_per_step
from pronk.envs.slots import Arrays, Observation, StepResult
from pronk.envs.watchdog import Watchdog, ending
from pronk.errors import Misconfigured
from pronk.wire.spec import EnvironmentSpec


class SyncSlots:
    """N Gymnasium environments in a plain loop, without SyncVectorEnv's copies and checks.

    A slot whose environment raises, or shows what its space does not allow, gets a new one while
    the others go on. One that does not come back ends the process.
    """

    def __init__(
        self,
        name: str,
        build: Callable[[], Env],
        seeds: Sequence[int],
        step_seconds: float,
        tell: Tell = keep_quiet,
    ) -> None:
        """Build an environment for every seed and reset it.

        Args:
            name: the environment's.
            build: makes one.
            seeds: [N]
            step_seconds: an environment that steps for longer hangs.
            tell: hears of every failure.

        Raises:
            Misconfigured: no environment, or spaces that cannot be represented.
            Broken: environments that fail again and again.
        """
        self._build = build
        self._envs = [build() for _ in seeds]
        self._later_seeds = [np.random.default_rng(seed) for seed in seeds]
        self._failures = Failures(name, tell)
        first = self._envs[0]
        self._actions = ActionLayout(first.action_space)
        observations = ObservationLayout(first.observation_space)
        self._obs = observations.empty(len(seeds))
        self._write = observations.writer(self._obs)
        self._inspector = Inspector(observations.specs, self._actions.specs)
        self._watchdog = Watchdog(step_seconds, ending(name, step_seconds, tell))
        self._ended = [False] * len(seeds)
        self._mask: NDArray[np.bool_] | None = None
        info = self._start(0, seeds[0])
        self._spec = EnvironmentSpec(
            environment=name,
            observation=observations.specs,
            action=self._actions.specs,
            action_mask=MASK in info,
            frames_per_step=frames_per_step(first),
        )
        if self._spec.action_mask:
            self._mask = np.ones((len(seeds), self._spec.mask_size), np.bool_)
            self._mask[0] = mask_row(info[MASK], self._spec.mask_size)
        for slot, seed in enumerate(seeds[1:], 1):
            self._start(slot, seed)
        self._renew(self._faults())
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
        self._watchdog.start()
        if not self._fresh:
            self._failures.stepped()
            with self._watchdog:
                for slot in range(self.slots):
                    self._watchdog.at = slot
                    self._start(slot, None)
                self._renew(self._faults())
        self._fresh = False
        return Observation(self._obs, self._mask)

    def step(self, action: Arrays) -> StepResult:
        """Act once in every slot; see `SlotEnv`."""
        rewards = [0.0] * self.slots
        terminated = [False] * self.slots
        truncated = [False] * self.slots
        errors: dict[int, BaseException] = {}
        self._failures.stepped()
        with self._watchdog as watchdog:
            for slot, chosen in enumerate(self._actions.singles(action)):
                watchdog.at = slot
                try:
                    if self._ended[slot]:
                        self._reset(slot, None)
                        continue
                    obs, reward, over, cut, info = self._envs[slot].step(chosen)
                    self._write(slot, obs)
                    if self._mask is not None:
                        self._mask[slot] = mask_row(info.get(MASK), self._mask.shape[1])
                    rewards[slot] = float(reward)
                    if over or cut:
                        terminated[slot], truncated[slot] = bool(over), bool(cut)
                        self._ended[slot] = True
                except ERRORS as error:
                    errors[slot] = error
            result = StepResult(
                self._obs,
                np.array(rewards, np.float32),
                np.array(terminated, np.bool_),
                np.array(truncated, np.bool_),
                self._mask,
            )
            errors = self._faults(result) | errors
            return self._without(errors, result) if errors else result

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
        self._watchdog.close()
        for env in self._envs:
            with suppress(*ERRORS):
                env.close()

    def _reset(self, slot: int, seed: int | None) -> dict[str, Any]:
        obs, info = self._envs[slot].reset(seed=seed)
        self._write(slot, obs)
        if self._mask is not None:
            self._mask[slot] = mask_row(info.get(MASK), self._mask.shape[1])
        self._ended[slot] = False
        return info

    def _start(self, slot: int, seed: int | None) -> dict[str, Any]:
        """Reset a slot, with a new environment if it must be; the first info."""
        try:
            return self._reset(slot, seed)
        except ERRORS as error:
            return self._renewed(slot, error)

    def _faults(self, result: StepResult | None = None) -> dict[int, BaseException]:
        """What is wrong with what the slots show now, after a step or after resets."""
        if result is None:
            nothing = np.zeros(self.slots, np.float32)
            return {**self._inspector.faults(self._obs, nothing, self._mask)}
        ended = None if self._mask is None else result.terminated | result.truncated
        return {**self._inspector.faults(self._obs, result.reward, self._mask, ended)}

    def _without(self, errors: dict[int, BaseException], result: StepResult) -> StepResult:
        """The step as it is where some slots failed: these have new environments."""
        self._renew(errors)
        failed = np.zeros(self.slots, np.bool_)
        failed[list(errors)] = True
        for array in result.reward, result.terminated, result.truncated:
            array[failed] = 0
        return result._replace(failed=failed)

    def _renew(self, errors: dict[int, BaseException]) -> None:
        for slot, error in errors.items():
            self._watchdog.at = slot
            self._renewed(slot, error)

    def _renewed(self, slot: int, error: BaseException) -> dict[str, Any]:
        """Give a slot a new environment; its first info."""
        return persist(
            error, lambda why: self._failures.add(failure(slot, why)), partial(self._replace, slot)
        )

    def _replace(self, slot: int) -> dict[str, Any]:
        with suppress(*ERRORS):
            self._envs[slot].close()
        self._envs[slot] = self._build()
        info = self._reset(slot, int(self._later_seeds[slot].integers(2**31)))
        row = slice(slot, slot + 1)
        obs = {name: array[row] for name, array in self._obs.items()}
        mask = None if self._mask is None else self._mask[row]
        for fault in self._inspector.faults(obs, np.zeros(1, np.float32), mask).values():
            raise fault
        return info
