"""The names, dtypes and shapes of what a policy's step takes and gives.

They are the ONNX graph's inputs and outputs, and the keys of `Engine.step`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

from pronk.wire.spec import ContinuousSpec, EnvironmentSpec

T = TypeVar("T")
Shapes = Mapping[str, tuple[int, ...]]

OBSERVATION = "obs."
CORE = "core."
LAST_ACTION = "last_action."
LAST_REWARD = "last_reward"
RESET = "reset"
TASK = "task"
ACTION_MASK = "action_mask"

DISTRIBUTION = "dist."
VALUE = "value"
NEXT_CORE = "next_core."


@dataclass(frozen=True)
class Port:
    """One input or output of a step: `[N, *shape]`."""

    name: str
    dtype: str
    shape: tuple[int, ...]


def inputs(spec: EnvironmentSpec, core_shapes: Shapes) -> tuple[Port, ...]:
    """Everything that a step may take, in the order of its arguments.

    `action_mask` is there only where the environment has one. A network that ignores an input has
    it pruned from its graph: the manifest lists what is left.
    """
    ports = [Port(OBSERVATION + array.name, array.dtype, array.shape) for array in spec.observation]
    ports += [Port(CORE + name, "float32", shape) for name, shape in core_shapes.items()]
    for action in spec.action:
        dtype = "float32" if isinstance(action, ContinuousSpec) else "int64"
        ports.append(Port(LAST_ACTION + action.name, dtype, action.shape))
    ports += [Port(LAST_REWARD, "float32", ()), Port(RESET, "bool", ()), Port(TASK, "int32", ())]
    if spec.action_mask:
        ports.append(Port(ACTION_MASK, "bool", (spec.mask_size,)))
    return tuple(ports)


def outputs(spec: EnvironmentSpec, core_shapes: Shapes) -> tuple[Port, ...]:
    """Everything that a step gives: distribution parameters, value, next core state."""
    ports = [Port(DISTRIBUTION + a.name, "float32", (a.parameters,)) for a in spec.action]
    ports.append(Port(VALUE, "float32", ()))
    ports += [Port(NEXT_CORE + name, "float32", shape) for name, shape in core_shapes.items()]
    return tuple(ports)


def group(arrays: Mapping[str, T], prefix: str) -> dict[str, T]:
    """The arrays whose names begin with `prefix`, under the rest of their names."""
    return {name[len(prefix) :]: array for name, array in arrays.items() if name.startswith(prefix)}
