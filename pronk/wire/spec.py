"""What an environment shows and takes, as plain values: the contract between actors and learner.

The first actor registers its `EnvironmentSpec`; the learner, which has no environments, builds its
network from it. Every Gymnasium space is flattened into named arrays.
"""

import math
from dataclasses import dataclass, field

import numpy as np

from pronk.wire.spec_check import check_spec
from pronk.wire.tensors import dtype_from_wire, dtype_to_wire
from pronk.wire.v1 import spec_pb2

DEFAULT = "default"
"""Name of the only observation, action or agent of an environment that does not name them."""


@dataclass(frozen=True)
class ArraySpec:
    """One named observation array.

    Attributes:
        name: unique among the observations.
        dtype: numpy name, for example "float32".
        shape: of one observation, without time and slot axes.
        low, high: bounds of every element; infinite when unknown.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    low: float = -math.inf
    high: float = math.inf


@dataclass(frozen=True)
class DiscreteSpec:
    """A discrete action: one choice (`Discrete`) or several side by side (`MultiDiscrete`).

    Actions are int64, `[…]` for one choice, `[…, len(choices)]` for several, counted from 0.
    """

    name: str
    choices: tuple[int, ...]
    """Number of alternatives of each choice."""
    scalar: bool = True
    """True: actions are scalars `[…]` (`Discrete`); False: vectors `[…, len(choices)]`."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one action."""
        return () if self.scalar else (len(self.choices),)

    @property
    def parameters(self) -> int:
        """Number of distribution parameters: all logits, concatenated."""
        return sum(self.choices)


@dataclass(frozen=True)
class ContinuousSpec:
    """A continuous action: float32 `[…, *shape]`, in the policy's own units.

    A policy acts around [-1, 1]; the actor maps that range onto [low, high] and clips, where both
    are finite, and passes the action on as it is elsewhere. Unrolls hold the policy's action.
    """

    name: str
    shape: tuple[int, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]

    @property
    def size(self) -> int:
        """Number of elements of one action."""
        return int(np.prod(self.shape, dtype=int))

    @property
    def parameters(self) -> int:
        """Number of distribution parameters: means, then logarithms of standard deviations."""
        return 2 * self.size


ActionSpec = DiscreteSpec | ContinuousSpec


@dataclass(frozen=True)
class EnvironmentSpec:
    """What an environment shows and takes."""

    environment: str
    observation: tuple[ArraySpec, ...]
    action: tuple[ActionSpec, ...]
    action_mask: bool = False
    tasks: tuple[str, ...] = field(default=(DEFAULT,))
    agents: tuple[str, ...] = field(default=(DEFAULT,))
    frames_per_step: int = 1

    @property
    def mask_size(self) -> int:
        """Width of `action_mask`: the logits of all discrete actions, in order."""
        return sum(spec.parameters for spec in self.action if isinstance(spec, DiscreteSpec))


def to_proto(spec: EnvironmentSpec) -> spec_pb2.EnvironmentSpec:
    """The spec as its wire message."""
    message = spec_pb2.EnvironmentSpec(
        environment=spec.environment,
        action_mask=spec.action_mask,
        tasks=spec.tasks,
        agents=spec.agents,
        frames_per_step=spec.frames_per_step,
    )
    for array in spec.observation:
        message.observation.add(
            name=array.name,
            dtype=dtype_to_wire(np.dtype(array.dtype)),
            shape=array.shape,
            low=array.low,
            high=array.high,
        )
    for action in spec.action:
        if isinstance(action, DiscreteSpec):
            message.action.add(
                name=action.name,
                discrete=spec_pb2.DiscreteAction(choices=action.choices, scalar=action.scalar),
            )
        else:
            message.action.add(
                name=action.name,
                continuous=spec_pb2.ContinuousAction(
                    shape=action.shape, low=action.low, high=action.high
                ),
            )
    return message


def from_proto(message: spec_pb2.EnvironmentSpec) -> EnvironmentSpec:
    """The spec of a wire message.

    Raises:
        WireError: see `check_spec`.
    """
    check_spec(message)
    return EnvironmentSpec(
        environment=message.environment,
        observation=tuple(
            ArraySpec(a.name, dtype_from_wire(a.dtype).name, tuple(a.shape), a.low, a.high)
            for a in message.observation
        ),
        action=tuple(_action_from_proto(action) for action in message.action),
        action_mask=message.action_mask,
        tasks=tuple(message.tasks),
        agents=tuple(message.agents),
        frames_per_step=message.frames_per_step,
    )


def _action_from_proto(message: spec_pb2.ActionSpec) -> ActionSpec:
    if message.WhichOneof("kind") == "discrete":
        return DiscreteSpec(message.name, tuple(message.discrete.choices), message.discrete.scalar)
    continuous = message.continuous
    return ContinuousSpec(
        message.name, tuple(continuous.shape), tuple(continuous.low), tuple(continuous.high)
    )
