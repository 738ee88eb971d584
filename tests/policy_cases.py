"""Small policies of every kind: networks × cores × action spaces × inputs."""

import numpy as np
import torch

from pronk.config.schema import NetworkConfig
from pronk.nets.network import PolicyNetwork, build
from pronk.policy import probe
from pronk.policy.torch_engine import call
from pronk.wire.spec import ArraySpec, ContinuousSpec, DiscreteSpec, EnvironmentSpec

VECTOR = ArraySpec("default", "float32", (5,))
GRID = ArraySpec("grid", "bool", (7, 7, 3), 0, 1)
FRAMES = ArraySpec("frames", "uint8", (2, 36, 36), 0, 255)

DISCRETE = DiscreteSpec("default", (3,))
MULTI = DiscreteSpec("buttons", (2, 4, 3), scalar=False)
CONTINUOUS = ContinuousSpec("joints", (2,), (-2.0, -2.0), (2.0, 2.0))

DICT = (
    ArraySpec("position", "float64", (2, 3)),
    ArraySpec("direction", "int64", (), 0, 3),
    ArraySpec("frames", "uint8", (36, 36, 3), 0, 255),
    ArraySpec("flags", "int8", (4,), 0, 1),
)

OBSERVATIONS = {"mlp": (VECTOR,), "minatar": (GRID,), "shallow": (FRAMES,), "deep": (GRID,)}
ACTIONS = {
    "discrete": (DISCRETE,),
    "multi": (MULTI,),
    "continuous": (CONTINUOUS,),
    "masked": (DISCRETE, MULTI),
    "mixed": (DISCRETE, CONTINUOUS),
}
KWARGS = {
    "mlp": {"hidden": [16, 16]},
    "minatar": {"channels": 4, "hidden": 16},
    "shallow": {"hidden": 16},
    "deep": {"sections": [4, 8], "hidden": 16},
}


def spec_of(torso="mlp", actions="discrete", **changes):
    """An environment that suits a torso."""
    return EnvironmentSpec(
        environment="made-up",
        observation=changes.pop("observation", OBSERVATIONS[torso]),
        action=ACTIONS[actions],
        action_mask=actions == "masked",
        **changes,
    )


def config_of(torso="mlp", **changes):
    """A small network."""
    return NetworkConfig(id=torso, kwargs=KWARGS[torso], core_size=8, **changes)


def _table():
    """{name: (spec, config)}: all torsos × cores × action spaces, then inputs one by one."""
    cases = {
        f"{torso}-{core}-{actions}": (spec_of(torso, actions), config_of(torso, core=core))
        for torso in OBSERVATIONS
        for core in ("none", "lstm")
        for actions in ACTIONS
    }
    for core in ("none", "lstm"):
        extras = {"core": core, "last_action": True, "last_reward": True}
        cases |= {
            f"last-{core}": (spec_of(), config_of(**extras)),
            f"last-multi-{core}": (spec_of(actions="masked"), config_of(**extras)),
            f"last-continuous-{core}": (spec_of(actions="continuous"), config_of(**extras)),
            f"tasks-{core}": (spec_of(tasks=("easy", "hard")), config_of(core=core)),
            f"dict-{core}": (
                spec_of("shallow", "mixed", observation=DICT),
                config_of("shallow", normalise_observations=True, **extras),
            ),
            f"dict-mlp-{core}": (spec_of(observation=DICT), config_of(core=core)),
            f"normalised-{core}": (spec_of(), config_of(core=core, normalise_observations=True)),
            f"separate-{core}": (spec_of(), config_of(separate_value=True, **extras)),
        }
    return cases


CASES = _table()
_WITH_A_CORE_ONLY = ("last-multi", "last-continuous", "dict-mlp", "normalised", "separate")
FEWER = [
    name
    for name in CASES
    if name not in {f"{inputs}-none" for inputs in _WITH_A_CORE_ONLY}
    and (
        not name.startswith(("minatar", "shallow", "deep"))
        or name.endswith(("none-discrete", "lstm-mixed"))
    )
]
"""Every torso, core, action space and input, but not each with each."""

# Tests share the cores with one another; a thread pool for such small layers only waits.
torch.set_num_threads(1)


def network_of(name):
    """The network of a case: seeded weights, in evaluation mode."""
    torch.manual_seed(0)
    return build(*CASES[name]).eval().requires_grad_(False)


def scramble(network: PolicyNetwork, seed: int) -> None:
    """Other weights of ordinary size, every one of them, in place."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in network.state_dict().items():
        if not tensor.is_floating_point():
            continue
        if "variance" in name or "running_var" in name:
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
        else:
            fan_in = tensor[0].numel() if tensor.dim() > 1 else 4
            tensor.copy_(torch.randn(tensor.shape, generator=generator) / fan_in**0.5)


def fill(network: PolicyNetwork, value: float) -> None:
    """All weights equal, in place."""
    for tensor in network.state_dict().values():
        if tensor.is_floating_point():
            tensor.fill_(value)


def batch_of(network: PolicyNetwork, rows=4, seed=0):
    """Inputs of one step, as arrays."""
    return probe.make(network.spec, network.core_shapes, rows, seed)


def run_torch(network: PolicyNetwork, batch):
    """Outputs of one step in torch, as arrays."""
    with torch.no_grad():
        outputs = call(network, {name: torch.from_numpy(array) for name, array in batch.items()})
    return {name: array.numpy() for name, array in outputs.items()}


def worst(expected, outputs):
    """Largest difference between outputs, relative to the largest number (at least 1)."""
    assert outputs.keys() == expected.keys()
    return max(
        float(np.abs(array - outputs[name]).max() / scale(array))
        for name, array in expected.items()
    )


def scale(array):
    ordinary = array[np.abs(array) < 1e8]
    return max(1.0, float(np.abs(ordinary).max(initial=0)))
