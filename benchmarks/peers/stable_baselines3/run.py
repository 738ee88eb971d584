"""Stable-Baselines3's PPO and A2C: `run.py WORKLOAD VARIANT FOLDER`; it trains until ended.

One process that acts and learns in turn: the reference that needs no system at all.
"""

import sys
from functools import partial
from typing import Any

import networks
import numpy as np
import torch
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecMonitor
from workloads import WORKLOADS, Teller, make_env, make_vector

# "documented" is RL Baselines3 Zoo's ppo.yml, CartPole-v1 and atari, with its rates held constant
# (they fall to 0 at an end that is not here). It has no MinAtar: PPO's own defaults there, with 8
# environments.
VARIANTS: dict[tuple[str, str], dict[str, Any]] = {
    ("cartpole", "documented"): {
        "envs": 8, "n_steps": 32, "batch_size": 256, "gae_lambda": 0.8, "gamma": 0.98,
        "n_epochs": 20, "ent_coef": 0.0, "learning_rate": 1e-3, "clip_range": 0.2,
    },
    ("cartpole", "tuned-ppo"): {
        "envs": 32, "n_steps": 32, "batch_size": 256, "n_epochs": 4, "learning_rate": 1e-3,
        "gae_lambda": 0.9, "threads": 1,
    },
    ("cartpole", "tuned-a2c"): {
        "envs": 32, "n_steps": 32, "learning_rate": 1e-3, "use_rms_prop": False, "threads": 1,
        "ent_coef": 0.01,
    },
    ("minatar", "documented"): {"envs": 8},
    ("minatar", "tuned-ppo"): {
        "envs": 64, "n_steps": 16, "batch_size": 256, "n_epochs": 2, "learning_rate": 1e-3,
        "ent_coef": 0.01, "threads": 2,
    },
    ("minatar", "tuned-a2c"): {
        "envs": 32, "n_steps": 16, "learning_rate": 1e-3, "use_rms_prop": False, "threads": 2,
        "ent_coef": 0.01,
    },
    ("pong", "documented"): {
        "envs": 8, "n_steps": 128, "n_epochs": 4, "batch_size": 256, "learning_rate": 2.5e-4,
        "clip_range": 0.1, "vf_coef": 0.5, "ent_coef": 0.01,
    },
    ("pong", "tuned-ppo"): {
        "envs": 32, "n_steps": 20, "n_epochs": 1, "batch_size": 320, "learning_rate": 6e-4,
        "ent_coef": 0.01, "threads": 2, "vector": True,
    },
    ("pong", "tuned-a2c"): {
        "envs": 32, "n_steps": 20, "learning_rate": 6e-4, "ent_coef": 0.01, "threads": 2,
        "vector": True,
    },
}  # fmt: skip


class Convolutions(BaseFeaturesExtractor):
    """The network that all train."""

    def __init__(self, space: Any, name: str) -> None:
        super().__init__(space, networks.FEATURES[name])
        self.torso = networks.torso(name)

    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        """[N, C, H, W], scaled already where it was of bytes → [N, features]."""
        return self.torso(obs)


class Vector(VecEnv):
    """A Gymnasium vector environment that resets in the step that ends an episode."""

    def __init__(self, name: str, slots: int) -> None:
        self._vector = make_vector(name, slots, same_step=True)
        self._actions = np.zeros(slots, np.int64)
        single = self._vector
        super().__init__(slots, single.single_observation_space, single.single_action_space)

    def reset(self) -> Any:
        """Start all."""
        return self._vector.reset()[0].copy()

    def step_async(self, actions: np.ndarray) -> None:
        """Keep the actions."""
        self._actions = actions

    def step_wait(self) -> Any:
        """Act once in each."""
        obs, reward, terminated, truncated, seen = self._vector.step(self._actions)
        done = terminated | truncated
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        for slot in np.flatnonzero(done):
            infos[slot]["terminal_observation"] = seen["final_obs"][slot]
            infos[slot]["TimeLimit.truncated"] = bool(truncated[slot] and not terminated[slot])
        return obs.copy(), np.asarray(reward, np.float32), done, infos

    def close(self) -> None:
        """Close it."""
        self._vector.close()

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """Nothing is known of single environments."""
        return [None] * self.num_envs

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Nothing can be set."""

    def env_method(self, method_name: str, *args: Any, **options: Any) -> list[Any]:
        """Nothing can be called."""
        raise NotImplementedError

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        """Not one by one."""
        return [False] * self.num_envs


class Tells(BaseCallback):
    """Tells how training goes, before the next collection begins.

    All that was collected until then has been trained on: `num_timesteps` counts every step once,
    whatever the number of epochs, and resets are not among them.
    """

    def __init__(self) -> None:
        super().__init__()
        self._teller = Teller()

    def _on_rollout_start(self) -> None:
        returns = [episode["r"] for episode in self.model.ep_info_buffer or ()]
        self._teller.tell(self.model.num_timesteps, returns, len(returns))

    def _on_step(self) -> bool:
        return True


def main(name: str, variant: str, _: str) -> None:
    """Train until somebody ends it."""
    kind = name.removesuffix("-sync")
    options = {"seed": 0, "device": "cpu"} | VARIANTS[kind, variant]
    slots, threads = options.pop("envs"), options.pop("threads", None)
    if threads is not None:
        torch.set_num_threads(threads)
    vector = options.pop("vector", False) or name != kind
    envs = Vector(name, slots) if vector else DummyVecEnv([partial(make_env, name)] * slots)
    network: dict[str, Any] = {"net_arch": [64, 64], "activation_fn": torch.nn.Tanh}
    if kind in networks.FEATURES:
        network = {"net_arch": [], "features_extractor_class": Convolutions}
        network["features_extractor_kwargs"] = {"name": kind}
    algorithm = A2C if variant.endswith("a2c") else PPO
    if variant != "documented":
        assert options["n_steps"] == WORKLOADS[name].unroll  # noqa: S101
    model = algorithm("MlpPolicy", VecMonitor(envs), policy_kwargs=network, **options)
    model.learn(10**12, callback=Tells())


if __name__ == "__main__":
    main(*sys.argv[1:4])
