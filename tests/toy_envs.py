"""Environments whose every number is known beforehand."""

import os
import re
import signal
import sys
import time
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

LENGTH = 3


class Counter(gymnasium.Env):
    """Shows [episode, step]; episodes take `length` steps, odd ones are truncated, even ones
    terminated; the reward is the number of the step."""

    observation_space = spaces.Box(-1, np.inf, (2,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self, length: int = LENGTH) -> None:
        self.length = length
        self.episode = -1
        self.count = 0

    def reset(self, *, seed: int | None = None, options: Any = None):
        super().reset(seed=seed)
        self.episode += 1
        self.count = 0
        return self._obs(), {}

    def step(self, action: int):
        assert self.count < self.length, "stepped after the end"
        self.count += 1
        ended = self.count == self.length
        odd = self.episode % 2 == 1
        return self._obs(), self.count, ended and not odd, ended and odd, {}

    def _obs(self) -> np.ndarray:
        return np.array([self.episode, self.count], np.float32)


class Slow(Counter):
    """Takes half a second for a step."""

    def step(self, action: int):
        time.sleep(0.5)
        return super().step(action)


class CounterVector(VectorEnv):
    """The same, as an environment's own vector implementation."""

    metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012

    def __init__(self, num_envs: int, length: int = LENGTH) -> None:
        self.num_envs = num_envs
        self.single_observation_space = Counter.observation_space
        self.single_action_space = Counter.action_space
        self.observation_space = batch_space(Counter.observation_space, num_envs)
        self.action_space = batch_space(Counter.action_space, num_envs)
        self.envs = [Counter(length) for _ in range(num_envs)]
        self.ended = np.zeros(num_envs, np.bool_)

    def reset(self, *, seed: int | None = None, options: Any = None):
        self.ended[:] = False
        return np.stack([env.reset(seed=seed)[0] for env in self.envs]), {}

    def step(self, actions: np.ndarray):
        assert self.action_space.contains(actions)
        rows = [
            (*env.reset()[:1], 0, False, False, {}) if ended else env.step(action)
            for env, ended, action in zip(self.envs, self.ended, actions, strict=True)
        ]
        obs, reward, terminated, truncated, _ = zip(*rows, strict=True)
        self.ended = np.array(terminated) | np.array(truncated)
        return (
            np.stack(obs),
            np.array(reward, np.float64),
            np.array(terminated),
            np.array(truncated),
            {},
        )


class SameStepVector(CounterVector):
    """Resets in the step that ends an episode: its final observations are lost on us."""

    metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}  # noqa: RUF012


class Nested(gymnasium.Env):
    """Observation and action spaces with everything in them; returns the action that it got."""

    observation_space = spaces.Dict(
        {
            "body": spaces.Dict({"speed": spaces.Box(-1, 1, (2,), np.float64)}),
            "pair": spaces.Tuple((spaces.Discrete(3, start=-1), spaces.MultiBinary(4))),
            "kind": spaces.MultiDiscrete([3, 5]),
            "mission": spaces.Text(20),
            "frame": spaces.Box(0, 255, (2, 2, 3), np.uint8),
        }
    )
    action_space = spaces.Dict(
        {
            "arm": spaces.Box(np.array([0, -2], np.float32), np.array([10, 2], np.float32)),
            "gears": spaces.Tuple((spaces.Discrete(3, start=5), spaces.MultiDiscrete([2, 4]))),
            "lights": spaces.MultiBinary(2),
        }
    )

    def __init__(self) -> None:
        self.actions: list[Any] = []

    def reset(self, *, seed: int | None = None, options: Any = None):
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        return self.observation_space.sample(), {}

    def step(self, action: Any):
        assert self.action_space.contains(action), action
        self.actions.append(action)
        return self.observation_space.sample(), 0.0, False, False, {}


WRONG: dict[str, dict[str, Any]] = {
    "nan": {"state": np.array([0, np.nan], np.float32)},
    "huge": {"state": np.array([0, -3e38], np.float32)},
    "narrow": {"state": np.zeros(1, np.float32)},
    "ragged": {"state": [[1.0], [2.0, 3.0]]},
    "fraction": {"count": 1.5},
    "far": {"count": LENGTH + 1},
}
"""What `Faulty` shows against its space."""


class Faulty(gymnasium.Env):
    """Shows its step as an array and as a number, rewards with it, and ends after `LENGTH` steps;
    or fails, at `at`, in a way that goes by the seed of its first reset."""

    observation_space = spaces.Dict(
        {"state": spaces.Box(-1, np.inf, (2,), np.float32), "count": spaces.Discrete(LENGTH + 1)}
    )
    action_space = spaces.Discrete(2)

    def __init__(self, faults: dict[str, str] | None = None, otherwise: str = "", at: int = 2):
        self.faults, self.otherwise, self.at = faults or {}, otherwise, at
        self.fault: str | None = None
        self.resets = 0

    def reset(self, *, seed: int | None = None, options: Any = None):
        super().reset(seed=seed)
        if self.fault is None:
            self.fault = self.faults.get(str(seed), self.otherwise)
        self.count = 0
        self.resets += 1
        obs, info = self._obs(), {}
        if self.fault.startswith("reset_") and self.resets == 2:
            obs = self._failed(self.fault.removeprefix("reset_"), obs, 0)[0]
        return obs, info

    def step(self, action: int):
        self.count += 1
        row = self._obs(), float(self.count), self.count == LENGTH, False, {}
        if self.count == self.at and self.fault and not self.fault.startswith("reset_"):
            return self._failed(self.fault, row[0], row[1])
        return row

    def close(self) -> None:
        if self.fault == "crash":
            raise RuntimeError("cannot be closed either")

    def _failed(self, fault: str, obs: dict[str, Any], reward: Any):
        match fault:
            case "crash":
                raise RuntimeError("the simulator\nis gone")
            case "exit":
                sys.exit(0)
            case "die":
                os.kill(os.getpid(), signal.SIGKILL)
            case "hang":
                time.sleep(3600)
            case "freeze":  # without letting another thread run
                re.match("(a+)+$", "a" * 99 + "b")
            case "not a tuple":
                return obs
            case "no reward":
                reward = None
            case "infinite":
                reward = np.inf
            case "lavish":
                reward = 1e10
            case _:
                obs |= WRONG[fault]
        return obs, reward, False, False, {}

    def _obs(self) -> dict[str, Any]:
        return {"state": np.array([self.resets, self.count], np.float32), "count": self.count}


class FaultyVector(CounterVector):
    """A vector environment that fails as a whole, at its third step, `times` times."""

    lives = 0

    def __init__(self, num_envs: int, fault: str, times: int = 1) -> None:
        super().__init__(num_envs)
        FaultyVector.lives += 1
        self.fault = fault if FaultyVector.lives <= times else ""
        self.steps = 0

    def step(self, actions: np.ndarray):
        obs, reward, terminated, truncated, info = super().step(actions)
        self.steps += 1
        if self.steps == 3:
            match self.fault:
                case "crash":
                    raise RuntimeError("all gone")
                case "hang":
                    time.sleep(3600)
                case "nan":
                    obs[1, 0] = np.nan
                case "huge":
                    obs[1, 0] = 3e38
                case "infinite":
                    reward[1] = -np.inf
                case "narrow":
                    obs = obs[:, :1]
                case "fewer":
                    obs = obs[:1]
        return obs, reward, terminated, truncated, info


class Masked(gymnasium.Env):
    """Allows only the action whose number is the step's, modulo 3; at step `wrong`, as many
    actions as `mask` says."""

    observation_space = spaces.Box(0, 1, (1,), np.float32)
    action_space = spaces.Discrete(3)
    length = 4

    def __init__(self, wrong: int = -1, mask: tuple[bool, ...] = ()) -> None:
        self.wrong, self.mask = wrong, mask

    def reset(self, *, seed: int | None = None, options: Any = None):
        self.count = 0
        return np.zeros(1, np.float32), self._info()

    def step(self, action: int):
        allowed = self.count % 3
        assert action == allowed, f"step {self.count}: {action} was not allowed"
        self.count += 1
        ended = self.count == self.length
        return np.zeros(1, np.float32), 1.0, ended, False, {} if ended else self._info()

    def _info(self) -> dict[str, Any]:
        if self.count == self.wrong:
            return {"action_mask": np.array(self.mask, np.bool_)}
        return {"action_mask": np.arange(3) == self.count % 3}


class Dreamer(gymnasium.Env):
    """Spaces that no fixed set of arrays can hold."""

    observation_space = spaces.Sequence(spaces.Discrete(2))
    action_space = spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None):
        return (0,), {}


def broken() -> gymnasium.Env:
    raise RuntimeError("the simulator is\nnot licensed")


def not_an_environment() -> int:
    return 3


for _name, _vector in (
    ("Counter", CounterVector),
    ("SameStep", SameStepVector),
    ("Faulty", FaultyVector),
):
    gymnasium.register(f"{_name}-v0", Counter, vector_entry_point=_vector)
