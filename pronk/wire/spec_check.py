"""Is a spec one that an environment can have? Looked at as a message, by who stores it too.

Without numpy, since the parameter server lives without it.
"""

import math
from collections.abc import Iterable, Sequence

from pronk.wire.errors import WireError
from pronk.wire.v1 import spec_pb2, tensor_pb2

MAX_ARRAYS = 256
"""Observations, and as many actions, of one environment."""
MAX_NAMES = 4096
"""Tasks, and as many agents; metrics have a series for each task."""
MAX_NAME = 255
"""Characters of a name."""
MAX_DIMENSIONS = 16
"""Of one array; numpy has 64, and torch's operators fewer."""
MAX_ELEMENTS = 1 << 22
"""Of one step's observations together: two rows of so many bytes are more than an entry holds."""
MAX_PARAMETERS = 1 << 16
"""Logits, means and deviations of one step's actions together."""


def check_spec(spec: spec_pb2.EnvironmentSpec) -> None:
    """Refuse what no environment can have, and what nobody can train: others allocate by it.

    Raises:
        WireError: "spec" where it describes no environment, "dtype" where one is unknown,
            "oversized" where it describes one too large.
    """
    for kind, names, most in (
        ("observation", [array.name for array in spec.observation], MAX_ARRAYS),
        ("action", [action.name for action in spec.action], MAX_ARRAYS),
        ("task", spec.tasks, MAX_NAMES),
        ("agent", spec.agents, MAX_NAMES),
    ):
        _check_names(kind, names, most)
    _check_length("environment", spec.environment)
    if spec.frames_per_step < 1:
        raise WireError("spec", f"{spec.frames_per_step} frames per step")
    for array in spec.observation:
        _check_array(array)
    _check_sum("observations", "elements", map(_elements, spec.observation), MAX_ELEMENTS)
    parameters = [_parameters(action) for action in spec.action]
    _check_sum("actions", "parameters", parameters, MAX_PARAMETERS)


def _check_names(kind: str, names: Sequence[str], most: int) -> None:
    if not names:
        raise WireError("spec", f"no {kind}")
    if len(names) > most:
        raise WireError("oversized", f"{kind}: {len(names)} of them, at most {most} are taken")
    if len(set(names)) != len(names):
        raise WireError("spec", f"two of one name: {kind} {sorted(names)}")
    for name in names:
        _check_length(kind, name)


def _check_length(kind: str, name: str) -> None:
    if len(name) > MAX_NAME:
        raise WireError("oversized", f"{kind} {name[:20]}…: a name of {len(name)} characters")


def _check_array(array: spec_pb2.ArraySpec) -> None:
    known = tensor_pb2.DataType.values()
    if array.dtype not in known or array.dtype == tensor_pb2.DATA_TYPE_UNSPECIFIED:
        raise WireError("dtype", f"observation {array.name!r}: unknown data type {array.dtype}")
    _check_dimensions("observation", array.name, array.shape)
    # One that is NaN would differ from itself, when the next actor registers the same.
    if math.isnan(array.low) or math.isnan(array.high):
        raise WireError("spec", f"observation {array.name!r}: a bound is not a number")


def _parameters(action: spec_pb2.ActionSpec) -> int:
    """Number of distribution parameters of an action, which is checked."""
    match action.WhichOneof("kind"):
        case "discrete":
            choices = action.discrete.choices
            if not choices or min(choices) < 1:
                raise WireError("spec", f"action {action.name!r}: choices {list(choices)}")
            if action.discrete.scalar and len(choices) != 1:
                raise WireError("spec", f"action {action.name!r}: a scalar of several choices")
            return sum(choices)
        case "continuous":
            continuous = action.continuous
            _check_dimensions("action", action.name, continuous.shape)
            bounds = [*continuous.low, *continuous.high]
            size = math.prod(continuous.shape)
            if not len(continuous.low) == len(continuous.high) == size:
                raise WireError("spec", f"action {action.name!r}: bounds do not fit its shape")
            if any(math.isnan(bound) for bound in bounds):
                raise WireError("spec", f"action {action.name!r}: a bound is not a number")
            return 2 * _elements(continuous)
        case _:
            raise WireError("spec", f"action {action.name!r} has no kind")


def _check_dimensions(kind: str, name: str, shape: Sequence[int]) -> None:
    if len(shape) > MAX_DIMENSIONS:
        raise WireError("oversized", f"{kind} {name!r} of {len(shape)} dimensions")


def _elements(array: spec_pb2.ArraySpec | spec_pb2.ContinuousAction) -> int:
    """Of an array; one that is empty counts by its other axes, which numpy multiplies as well."""
    return math.prod(max(1, axis) for axis in array.shape)


def _check_sum(what: str, unit: str, sizes: Iterable[int], most: int) -> None:
    total = sum(sizes)
    if total > most:
        raise WireError("oversized", f"{what} of {total} {unit}, at most {most} are taken")
