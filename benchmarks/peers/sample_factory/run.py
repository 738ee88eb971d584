"""Sample Factory's APPO on a workload: `run.py WORKLOAD VARIANT FOLDER`; it trains until ended."""

import sys
from typing import Any

import gymnasium
import networks
import numpy as np
from sample_factory.algo.learning.learner import Learner
from sample_factory.algo.runners.runner import AlgoObserver, Runner
from sample_factory.algo.utils.context import global_model_factory
from sample_factory.cfg.arguments import parse_full_cfg, parse_sf_args
from sample_factory.envs.env_utils import register_env
from sample_factory.model.encoder import Encoder
from sample_factory.train import make_runner
from workloads import Teller, make_env, make_vector

EVERYWHERE: dict[str, Any] = {
    "algo": "APPO", "device": "cpu", "use_rnn": False, "recurrence": 1, "gamma": 0.99,
    "train_for_seconds": 10**6, "train_for_env_steps": 10**12, "save_every_sec": 10**6,
    "keep_checkpoints": 1, "with_wandb": False, "use_env_info_cache": False,
}  # fmt: skip
NETWORKS: dict[str, dict[str, Any]] = {
    "cartpole": {
        "encoder_mlp_layers": [64, 64], "nonlinearity": "tanh",
        "actor_critic_share_weights": False,
    },
    "minatar": {"nonlinearity": "relu"},
    "pong": {"nonlinearity": "relu", "obs_scale": 255.0},
}  # fmt: skip
_VTRACE: dict[str, Any] = {
    "num_workers": 2, "worker_num_splits": 2, "with_vtrace": True, "normalize_returns": False,
    "num_epochs": 1, "learning_rate": 1e-3, "adam_eps": 1e-5,
}  # fmt: skip
_SERIAL: dict[str, Any] = {
    "num_workers": 1, "worker_num_splits": 1, "batched_sampling": True, "serial_mode": True,
    "async_rl": False, "learning_rate": 1e-3, "adam_eps": 1e-5,
}  # fmt: skip
# "documented" is what sf_examples say: train_gym_env.py for CartPole, atari_params.py for Pong
# (without its falling learning rate, which needs an end); the defaults for MinAtar, of which they
# say nothing. `slots`: environments of one vector environment, instead of single ones.
VARIANTS: dict[tuple[str, str], dict[str, Any]] = {
    ("cartpole", "documented"): {
        "num_envs_per_worker": 20, "policy_workers_per_policy": 2, "batch_size": 512,
        "reward_scale": 0.1,
    },
    ("cartpole", "tuned-vtrace"): _VTRACE | {
        "num_envs_per_worker": 32, "rollout": 32, "recurrence": 32, "batch_size": 2048,
        "reward_scale": 0.1, "exploration_loss_coeff": 0.01,
    },
    ("cartpole", "tuned-serial"): _SERIAL | {
        "slots": 64, "num_envs_per_worker": 1, "rollout": 32, "batch_size": 2048, "num_epochs": 2,
        "reward_scale": 0.1,
    },
    ("minatar", "documented"): {},
    ("minatar", "tuned-vtrace"): _VTRACE | {
        "num_envs_per_worker": 32, "rollout": 16, "recurrence": 16, "batch_size": 512,
        "normalize_input": False,
    },
    ("minatar", "tuned-serial"): _SERIAL | {
        "num_envs_per_worker": 64, "rollout": 16, "batch_size": 512, "num_batches_per_epoch": 2,
        "num_epochs": 2, "normalize_input": False,
    },
    ("pong", "documented"): {
        "exploration_loss_coeff": 0.01, "num_workers": 8, "num_envs_per_worker": 1,
        "worker_num_splits": 1, "batch_size": 256, "rollout": 128, "max_grad_norm": 0.5,
        "num_epochs": 4, "num_batches_per_epoch": 4, "ppo_clip_ratio": 0.1,
        "learning_rate": 0.00025, "async_rl": False, "adam_eps": 1e-5,
    },
    ("pong", "tuned-vtrace"): _VTRACE | {
        "num_envs_per_worker": 16, "rollout": 20, "recurrence": 20, "batch_size": 640,
        "normalize_input": False, "learning_rate": 6e-4,
    },
    ("pong", "tuned-serial"): _SERIAL | {
        "num_envs_per_worker": 32, "rollout": 20, "batch_size": 640, "num_epochs": 1,
        "normalize_input": False, "learning_rate": 6e-4,
    },
}  # fmt: skip


class Convolutions(Encoder):
    """The network that all train."""

    def __init__(self, cfg: Any, _: Any) -> None:
        super().__init__(cfg)
        self.torso = networks.torso(cfg.env)
        self.size = networks.FEATURES[cfg.env]

    def get_out_size(self) -> int:
        """Features."""
        return self.size

    def forward(self, obs: Any) -> Any:
        """{"obs": [N, C, H, W]}, scaled already → [N, features]."""
        return self.torso(obs["obs"])


def record(learner: Learner, found: Any, _original: Any = Learner._record_summaries) -> Any:
    """Mend 2.1.1, which looks here for advantages that V-trace keeps elsewhere, and crashes."""
    if learner.cfg.with_vtrace:
        found.mb["advantages"] = found.adv
    return _original(learner, found)


Learner._record_summaries = record  # in the learner's process too: it imports this file


class Batch(gymnasium.Env):
    """A vector environment as Sample Factory takes one: many agents in one environment."""

    is_multiagent = True

    def __init__(self, name: str, slots: int) -> None:
        self._vector = make_vector(name, slots, same_step=True)
        self.num_agents = slots
        self.observation_space = self._vector.single_observation_space
        self.action_space = self._vector.single_action_space

    def reset(self, seed: int | None = None, **_: Any) -> Any:
        """Start all."""
        return self._seen(self._vector.reset(seed=seed)[0]), {}

    def step(self, action: Any) -> Any:
        """Act once in each."""
        action = np.asarray(action, np.int64).reshape(-1)
        obs, reward, terminated, truncated, _ = self._vector.step(action)
        return self._seen(obs), np.asarray(reward, np.float32), terminated, truncated, {}

    @staticmethod
    def _seen(obs: Any) -> Any:
        return np.ascontiguousarray(obs, np.float32)


class Observer(AlgoObserver):
    """Tells how training goes, after updates."""

    def __init__(self) -> None:
        self._teller = Teller()

    def on_training_step(self, runner: Runner, _: int) -> None:
        """Called after every training iteration, whatever its number of epochs.

        `env_steps` is what the learner adds up in `Learner.train` of the rows of the batches it
        trained on, each once. Rows that are more than `max_policy_lag` (1000) versions old would be
        among them, masked: there are none here. Environments skip frames themselves, so a step is
        a decision. `reward` holds raw returns of the last hundred episodes (`stats_avg`).
        """
        returns = runner.policy_avg_stats.get("reward", [[]])[0]
        self._teller.tell(runner.env_steps.get(0, 0), list(returns), len(returns))


def make(name: str, cfg: Any = None, _: Any = None, render_mode: str | None = None) -> Any:
    """What Sample Factory calls for every environment."""
    return Batch(name, cfg.slots) if cfg is not None and cfg.slots else make_env(name)


def main(name: str, variant: str, folder: str) -> None:
    """Train until somebody ends it."""
    kind = name.removesuffix("-sync")
    options = EVERYWHERE | NETWORKS[kind] | VARIANTS[kind, variant]
    words = [f"--env={name}", f"--experiment={variant}", f"--train_dir={folder}"]
    for key, value in options.items():
        values = value if isinstance(value, list) else [value]
        words += [f"--{key}", *map(str, values)]
    register_env(name, make)
    if kind in networks.FEATURES:
        global_model_factory().register_encoder_factory(Convolutions)
    parser, _ = parse_sf_args(argv=words)
    parser.add_argument("--slots", type=int, default=0)
    _, runner = make_runner(parse_full_cfg(parser, words))
    runner.register_observer(Observer())
    runner.init()
    runner.run()


if __name__ == "__main__":
    main(*sys.argv[1:4])
