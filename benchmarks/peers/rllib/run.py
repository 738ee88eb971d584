"""RLlib's IMPALA, new API stack: `run.py WORKLOAD VARIANT FOLDER`; it trains until ended."""

import os
import sys
from collections import deque
from pathlib import Path
from typing import Any

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # before the import: nothing is told to anybody,
os.environ["RAY_AUTH_MODE"] = "disabled"  # and nothing is left in the home directory

import networks
import ray
import torch
from ray.rllib.algorithms.impala import IMPALAConfig
from ray.rllib.algorithms.impala.torch.impala_torch_learner import IMPALATorchLearner
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.apis import ValueFunctionAPI
from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.core.rl_module.torch import TorchRLModule
from ray.tune.registry import register_env
from workloads import Teller, make_env, make_vector

_PATH = [str(Path(__file__).resolve().parent), os.environ.get("PYTHONPATH", "")]
_WIDE = {"runners": 2, "envs": 16, "fragment": 32, "batch": 2048, "lr": 1e-3, "gamma": 0.99}
# "documented" is the repository's tuned_examples/impala: cartpole_impala.py and pong_impala.py;
# IMPALAConfig's defaults for MinAtar, of which it has none. Without `learners` the learner lives in
# the driver's process. `vector`: the environment's own vector implementation.
VARIANTS: dict[tuple[str, str], dict[str, Any]] = {
    ("cartpole", "documented"): {
        "batch": 500, "lr": 5e-4, "vf_loss_coeff": 0.05, "entropy_coeff": 0.0,
    },
    ("cartpole", "tuned-wide"): _WIDE | {"vector": True, "vf_loss_coeff": 0.05, "learners": 1},
    ("cartpole", "tuned-local"): _WIDE | {"vector": True, "vf_loss_coeff": 0.05, "learners": 0},
    ("minatar", "documented"): {},
    ("minatar", "tuned-wide"): _WIDE | {"fragment": 16, "batch": 512, "learners": 1},
    ("minatar", "tuned-local"): _WIDE | {"fragment": 16, "batch": 512, "learners": 0},
    ("pong", "documented"): {
        "envs": 5, "batch": 500, "lr": 0.007, "entropy_coeff": 0.008, "broadcast_interval": 5,
    },
    ("pong", "tuned-wide"): _WIDE | {
        "fragment": 20, "batch": 640, "lr": 6e-4, "vector": True, "learners": 1,
    },
    ("pong", "tuned-local"): _WIDE | {
        "fragment": 20, "batch": 640, "lr": 6e-4, "vector": True, "learners": 0,
    },
}  # fmt: skip


class Convolutions(TorchRLModule, ValueFunctionAPI):
    """The network that all train."""

    def setup(self) -> None:
        """Make the layers."""
        super().setup()
        name = self.model_config["name"]
        self.scale = 255.0 if name == "pong" else 1.0
        self.torso = networks.torso(name)
        self.policy = torch.nn.Linear(networks.FEATURES[name], self.action_space.n)
        self.value = torch.nn.Linear(networks.FEATURES[name], 1)

    def _features(self, batch: dict[str, Any]) -> torch.Tensor:
        return self.torso(batch[Columns.OBS].float() / self.scale)

    def _forward(self, batch: dict[str, Any], **_: Any) -> dict[str, Any]:
        features = self._features(batch)
        return {
            Columns.EMBEDDINGS: features,
            Columns.ACTION_DIST_INPUTS: self.policy(features),
        }

    def compute_values(self, batch: dict[str, Any], embeddings: Any = None) -> torch.Tensor:
        """Values, [N]."""
        features = self._features(batch) if embeddings is None else embeddings
        return self.value(features).squeeze(-1)


class CountingLearner(IMPALATorchLearner):
    """Counts the rows that it trains on.

    RLlib's own `num_env_steps_trained_lifetime` counts among them the row that it adds to every
    fragment of an episode for its value; `LOSS_MASK` knows these, and the padding.
    """

    consumed = 0

    def compute_loss_for_module(self, *, batch: Any, **rest: Any) -> Any:
        """Called once per update: an update has one epoch and one minibatch."""
        self.consumed += int(batch[Columns.LOSS_MASK].sum())
        return super().compute_loss_for_module(batch=batch, **rest)


def note_return(episode: Any, metrics_logger: Any, **_: Any) -> None:
    """Keep the returns of all episodes, one by one."""
    metrics_logger.log_value("returns", float(episode.get_return()), reduce="item_series")


def configured(name: str, variant: str) -> IMPALAConfig:
    """The experiment."""
    kind = name.removesuffix("-sync")
    options = dict(VARIANTS[kind, variant])
    vector = options.pop("vector", False) and name == kind  # else RLlib uses a SyncVectorEnv
    register_env(name, lambda context: _environment(name, context))
    config = (
        IMPALAConfig()
        .environment(name)
        .env_runners(
            num_env_runners=options.pop("runners", 2),
            num_envs_per_env_runner=options.pop("envs", 1),
            rollout_fragment_length=options.pop("fragment", 50),
            gym_env_vectorize_mode="vector_entry_point" if vector else "sync",
        )
        .learners(num_learners=options.pop("learners", 1), learner_class=CountingLearner)
        .training(train_batch_size_per_learner=options.pop("batch", 500), **options)
        .callbacks(on_episode_end=note_return)
        .reporting(min_time_s_per_iteration=0.5)
        .debugging(log_level="ERROR", seed=0)
    )
    if kind in networks.FEATURES:
        spec = RLModuleSpec(module_class=Convolutions, model_config={"name": kind})
        return config.rl_module(rl_module_spec=spec)
    network = {"fcnet_hiddens": [64, 64], "fcnet_activation": "tanh", "vf_share_layers": False}
    return config.rl_module(model_config=DefaultModelConfig(**network))


def _environment(name: str, context: Any) -> Any:
    if "num_envs" in context:
        return make_vector(name, context["num_envs"])
    return make_env(name)


def main(name: str, variant: str, folder: str) -> None:
    """Train until somebody ends it."""
    ray.init(
        num_cpus=16,  # of its bookkeeping: that all fits on whatever cores there are
        include_dashboard=False,
        object_store_memory=400 * 2**20,
        _temp_dir=folder,
        runtime_env={"env_vars": {"PYTHONPATH": os.pathsep.join(_PATH)}},
        log_to_driver=False,
    )
    algorithm = configured(name, variant).build_algo()
    returns: deque[float] = deque(maxlen=100)
    episodes, teller = 0, Teller()
    while True:
        found = algorithm.train()["env_runners"].get("returns", [])
        returns.extend(found)
        episodes += len(found)
        counts = algorithm.learner_group.foreach_learner(lambda learner: learner.consumed)
        teller.tell(sum(int(each.get()) for each in counts), list(returns), episodes)


if __name__ == "__main__":
    main(*sys.argv[1:4])
