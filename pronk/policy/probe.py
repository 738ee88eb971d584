"""Batches of made-up inputs, to try a policy out on."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pronk.policy import signature
from pronk.wire.spec import ArraySpec, DiscreteSpec, EnvironmentSpec

_WIDEST = 255
_ROWS = 4


def make(
    spec: EnvironmentSpec,
    core_shapes: signature.Shapes,
    rows: int | None = None,
    seed: int = 0,
) -> dict[str, NDArray[Any]]:
    """Inputs of one step, {name: [rows, …]}; equal arguments give equal batches.

    Row 0 begins an episode, the others go on from a core state; tasks take turns, and by default
    each has a row; of every masked choice at least one alternative is allowed.
    """
    if rows is None:
        rows = max(_ROWS, len(spec.tasks))
    rng = np.random.default_rng(seed)
    batch: dict[str, NDArray[Any]] = {}
    for array in spec.observation:
        batch[signature.OBSERVATION + array.name] = _observation(array, rows, rng)
    for name, shape in core_shapes.items():
        batch[signature.CORE + name] = rng.normal(0, 0.5, (rows, *shape)).astype(np.float32)
    for action in spec.action:
        name = signature.LAST_ACTION + action.name
        if isinstance(action, DiscreteSpec):
            highs = np.broadcast_to(action.choices, (rows, len(action.choices)))
            batch[name] = rng.integers(0, highs, dtype=np.int64).reshape(rows, *action.shape)
        else:
            batch[name] = rng.normal(0, 0.5, (rows, *action.shape)).astype(np.float32)
    batch[signature.LAST_REWARD] = rng.normal(0, 1, rows).astype(np.float32)
    batch[signature.RESET] = np.arange(rows) == 0
    batch[signature.TASK] = np.arange(rows, dtype=np.int32) % len(spec.tasks)
    if spec.action_mask:
        batch[signature.ACTION_MASK] = _mask(spec, rows, rng)
    return batch


def _observation(array: ArraySpec, rows: int, rng: np.random.Generator) -> NDArray[Any]:
    dtype, shape = np.dtype(array.dtype), (rows, *array.shape)
    if dtype.kind == "b":
        return rng.random(shape) < 0.5
    if dtype.kind == "f":
        if array.high - array.low <= 2 * _WIDEST:
            return rng.uniform(array.low, array.high, shape).astype(dtype)
        return rng.normal(0, 1, shape).clip(array.low, array.high).astype(dtype)
    limits = np.iinfo(dtype)
    low = max(math.ceil(array.low), limits.min) if math.isfinite(array.low) else 0
    high = min(array.high, low + _WIDEST, limits.max)
    return rng.integers(low, int(high), shape, dtype=dtype, endpoint=True)


def _mask(spec: EnvironmentSpec, rows: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    mask = rng.random((rows, spec.mask_size)) < 0.5
    start = 0
    for action in spec.action:
        for count in action.choices if isinstance(action, DiscreteSpec) else ():
            mask[np.arange(rows), start + rng.integers(0, count, rows)] = True
            start += count
    return mask
