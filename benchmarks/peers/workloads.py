"""What is trained, the same for everybody: environment, network, length of unrolls, goal.

Runs in the virtual environment of every peer, with the Gymnasium that the peer takes. As a program,
`workloads.py WORKLOAD` prints how fast that environment is with random actions and no learning.
"""

from __future__ import annotations

import json
import os
import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import SyncVectorEnv, VectorEnv


@dataclass(frozen=True)
class Workload:
    """One thing to train.

    Attributes:
        goal: return, mean of 100 episodes, that ends a trial; None: only steps per second count.
        unroll: rows of every unroll, in all configurations but the peers' documented ones.
        slots: environments side by side where the bare rate is measured.
    """

    env: str
    goal: float | None
    unroll: int
    frame_skip: int
    network: str
    slots: int


_MLP = "MLP 64-64 tanh, value network of its own"
WORKLOADS = {
    "cartpole": Workload("CartPole-v1", 475, 32, 1, _MLP, 32),
    "cartpole-sync": Workload("CartPole-v1 in SyncVectorEnv", 475, 32, 1, _MLP, 32),
    "minatar": Workload("MinAtar/Breakout-v0", 20, 16, 1, "conv 16 of 3×3, hidden 128", 32),
    "pong": Workload(
        "ALE/Pong-v5", None, 20, 4, "conv 16 of 8×8/4, 32 of 4×4/2, hidden 256", slots=8
    ),
}
SYNC_CARTPOLE = "PeersCartPole-v1"
_OLD = gymnasium.__version__.startswith("0.")
Env = gymnasium.Env[Any, Any]
Vector = VectorEnv if _OLD else VectorEnv[Any, Any, Any]


class Planes(gymnasium.ObservationWrapper):
    """MinAtar's `[10, 10, C]` booleans as `[C, 10, 10]` floats, for those who read no others."""

    def __init__(self, env: Env) -> None:
        super().__init__(env)
        height, width, channels = env.observation_space.shape  # type: ignore[misc]
        self.observation_space = gymnasium.spaces.Box(0, 1, (channels, height, width), np.float32)

    def observation(self, observation: Any) -> Any:
        """[10, 10, C] → [C, 10, 10]."""
        return np.moveaxis(observation, -1, 0).astype(np.float32)


class Stack(gymnasium.Wrapper):
    """The last four frames, [4, 84, 84]; FIRE begins an episode, as in ale_py's own vectors."""

    def __init__(self, env: Env) -> None:
        super().__init__(env)
        self.observation_space = gymnasium.spaces.Box(0, 255, (4, 84, 84), np.uint8)
        self._frames = np.zeros((4, 84, 84), np.uint8)

    def reset(self, **options: Any) -> Any:
        """All four are the frame after FIRE."""
        self.env.reset(**options)
        frame, _, _, _, info = self.env.step(1)
        self._frames = np.repeat(np.asarray(frame)[None], 4, 0)
        return self._frames, info

    def step(self, action: Any) -> Any:
        """Forget the oldest frame."""
        frame, *rest = self.env.step(action)
        self._frames = np.concatenate((self._frames[1:], np.asarray(frame)[None]))
        return (self._frames, *rest)


def make_env(name: str) -> Env:
    """A single environment, without the checks that Gymnasium wraps around it by default."""
    if name == "minatar":
        import minatar.gym

        if "MinAtar/Breakout-v0" not in gymnasium.registry:
            minatar.gym.register_envs()
        return Planes(gymnasium.make("MinAtar/Breakout-v0", disable_env_checker=True))
    if name == "pong":
        import ale_py  # noqa: F401  # registers the games

        env = gymnasium.make("ALE/Pong-v5", frameskip=1, disable_env_checker=True)
        return Stack(gymnasium.wrappers.AtariPreprocessing(env, noop_max=30, frame_skip=4))
    return gymnasium.make("CartPole-v1", disable_env_checker=True)


def make_vector(name: str, slots: int, *, same_step: bool = False) -> Any:
    """The environment's own vector implementation; of `cartpole-sync` a plain SyncVectorEnv.

    Args:
        name: of the workload.
        slots: environments.
        same_step: reset in the step that ends an episode, and not in the next one.

    Raises:
        ValueError: there is none, or none that resets so.
    """
    how: dict[str, Any] = {}
    if not _OLD:  # the old one always resets in the same step
        mode = gymnasium.vector.AutoresetMode
        how["autoreset_mode"] = mode.SAME_STEP if same_step else mode.NEXT_STEP
    if name == "cartpole-sync":
        return SyncVectorEnv([lambda: make_env(name)] * slots, **how)
    if name == "cartpole" and _OLD:
        return gymnasium.make_vec("CartPole-v1", slots, vectorization_mode="custom")
    if name == "cartpole" and not same_step:
        return gymnasium.make_vec("CartPole-v1", slots, vectorization_mode="vector_entry_point")
    if name == "pong" and not _OLD:
        from ale_py.vector_env import AtariVectorEnv

        how |= {"num_threads": 1, "repeat_action_probability": 0.25, "reward_clipping": False}
        return AtariVectorEnv("pong", num_envs=slots, **how)
    raise ValueError(f"{name} has no vector implementation here")


def _sync_cartpole(*, num_envs: int = 1, **_: Any) -> Any:
    return make_vector("cartpole-sync", num_envs)


if not _OLD and SYNC_CARTPOLE not in gymnasium.registry:
    gymnasium.register(  # so that `env.id: workloads:PeersCartPole-v1` names it
        SYNC_CARTPOLE, "gymnasium.envs.classic_control:CartPoleEnv", max_episode_steps=500,
        vector_entry_point=_sync_cartpole,
    )  # fmt: skip


class Teller:
    """Says twice a second at most where training is, on lines that begin with PEER."""

    def __init__(self) -> None:
        self._started = float(os.environ.get("PEER_STARTED", time.time()))
        self._next = 0.0

    def tell(
        self, steps: int, returns: Sequence[float], episodes: int, at: float | None = None
    ) -> None:
        """Say it.

        Args:
            steps: environment steps that the learner has consumed: once each, in applied updates.
            returns: of the newest episodes; the score is the mean of the last hundred of them.
            episodes: that have ended; the score is unknown before there were a hundred.
            at: when that was, on `time.time`'s clock; default: now.
        """
        now = time.time() if at is None else at
        if now < self._next or not steps:
            return
        self._next = now + 0.5
        score = float(np.mean(list(returns)[-100:])) if episodes >= 100 else None
        line = {"seconds": now - self._started, "steps": int(steps), "score": score}
        print("PEER " + json.dumps(line), flush=True)


def bare_rates(name: str, seconds: float = 3.0) -> dict[str, float]:
    """Steps per second of the kinds of this environment that can be made here."""
    rates = {}
    for kind in ("single", "vector"):
        try:
            env = make_env(name) if kind == "single" else make_vector(name, WORKLOADS[name].slots)
        except (ImportError, ValueError, gymnasium.error.Error):
            continue
        rates[kind] = (_single_rate if kind == "single" else _vector_rate)(env, seconds)
        env.close()
    return rates


def _single_rate(env: Env, seconds: float) -> float:
    actions = np.random.default_rng(0).integers(env.action_space.n, size=1000)  # type: ignore[attr-defined]
    env.reset(seed=0)
    began, steps = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        for action in actions[:100]:
            _, _, terminated, truncated, _ = env.step(action)
            if terminated or truncated:
                env.reset()
        steps += 100
    return steps / (time.perf_counter() - began)


def _vector_rate(env: Any, seconds: float) -> float:
    """Rows that only reset (old Gymnasium has none) do not count."""
    random = np.random.default_rng(0)
    actions = random.integers(env.single_action_space.n, size=(100, env.num_envs))
    env.reset(seed=0)
    began, steps = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        for batch in actions:
            _, _, terminated, truncated, _ = env.step(batch)
            steps += env.num_envs - (0 if _OLD else int((terminated | truncated).sum()))
    return steps / (time.perf_counter() - began)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    print("BARE " + json.dumps(bare_rates(sys.argv[1])))
