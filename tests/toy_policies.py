"""A policy in numpy that depends on every input of a step, and bundles of real ones."""

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
from pronk_actor.agent import PolicyVersion, ReadyPolicy

from pronk.policy import sampling
from pronk.policy.manifest import Manifest
from pronk.wire.spec import DiscreteSpec, EnvironmentSpec
from pronk.wire.unroll import Unroll

CORE = 3


class NumpyEngine:
    """A recurrent policy: its logits depend on all seven inputs, its weights on the version.

    The core state is zeroed where `reset` is set, before anything is computed from it.
    """

    def __init__(self, spec: EnvironmentSpec, number: int) -> None:
        self.spec = spec
        self.number = number
        self.calls = 0

    def step(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        self.calls += 1
        rng = np.random.default_rng(self.number)
        slots = len(inputs["reset"])
        core = inputs["core.h"] * ~inputs["reset"][:, None]
        features = [core, inputs["last_reward"][:, None], inputs["reset"][:, None]]
        for name, array in sorted(inputs.items()):
            if name.startswith(("obs.", "last_action.")) or name == "task":
                features.append(array.reshape(slots, -1))
        x = np.concatenate(features, 1).astype(np.float64)
        hidden = np.tanh(x @ rng.normal(size=(x.shape[1], CORE))) + 0.5
        outputs = {"value": hidden.sum(1).astype(np.float32), "next_core.h": core + hidden}
        for action in self.spec.action:
            width = action.parameters
            logits = np.tanh(x @ rng.normal(size=(x.shape[1], width)))
            if "action_mask" in inputs:
                logits = np.where(inputs["action_mask"], logits, -1e9)
            outputs[f"dist.{action.name}"] = logits.astype(np.float32)
        outputs["next_core.h"] = outputs["next_core.h"].astype(np.float32)
        return outputs

    def load(self, weights: bytes) -> "NumpyEngine":
        raise NotImplementedError

    def fits(self, manifest: Manifest) -> bool:
        raise NotImplementedError


def ready(spec: EnvironmentSpec, number: int) -> ReadyPolicy:
    """A version of the numpy policy."""
    manifest = SimpleNamespace(core={"h": (CORE,)}, epoch=1, number=number)
    return ReadyPolicy(NumpyEngine(spec, number), cast(Manifest, manifest))


def version(number: int) -> PolicyVersion:
    return PolicyVersion(1, number)


@dataclass
class Derived:
    """What a learner derives from an unroll, rows 0 … T-1."""

    reset: np.ndarray
    last_action: dict[str, np.ndarray]
    last_reward: np.ndarray


def derive(unroll: Unroll) -> Derived:
    """reset, last action and last reward of every row, by the contract and nothing else."""
    reset = np.concatenate([unroll.reset[None], ~unroll.valid])
    last_reward = np.concatenate([unroll.last_reward[None], unroll.reward])
    last_action = {}
    for name, action in unroll.action.items():
        rows = np.concatenate([unroll.last_action[name][None], action]).copy()
        rows[reset] = 0
        last_action[name] = rows
    return Derived(reset, last_action, np.where(reset, 0, last_reward).astype(np.float32))


def replayed_log_prob(spec: EnvironmentSpec, unroll: Unroll) -> np.ndarray:
    """[T, N] log-probability of the unroll's actions, computed from the unroll alone."""
    derived, core = derive(unroll), unroll.core_state["h"]
    rows = []
    for row in range(unroll.length):
        numbers = set(unroll.behaviour_version[row].tolist())
        assert len(numbers) == 1
        inputs: dict[str, Any] = {
            "core.h": core,
            "last_reward": derived.last_reward[row],
            "reset": derived.reset[row],
            "task": unroll.task[row],
        }
        inputs |= {f"obs.{name}": array[row] for name, array in unroll.obs.items()}
        inputs |= {f"last_action.{k}": array[row] for k, array in derived.last_action.items()}
        if unroll.action_mask is not None:
            inputs["action_mask"] = unroll.action_mask[row]
        outputs = NumpyEngine(spec, numbers.pop()).step(inputs)
        params = {a.name: outputs[f"dist.{a.name}"] for a in spec.action}
        chosen = {name: array[row] for name, array in unroll.action.items()}
        rows.append(sampling.log_prob(spec.action, params, chosen))
        core = outputs["next_core.h"]
    return np.stack(rows)


DISCRETE = DiscreteSpec("default", (2,))
