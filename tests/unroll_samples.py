"""Unrolls that are valid for a spec, for tests to send, spoil and compare."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from pronk.wire.spec import (
    ActionSpec,
    ArraySpec,
    ContinuousSpec,
    DiscreteSpec,
    EnvironmentSpec,
)
from pronk.wire.unroll import Arrays, Episode, Unroll, UnrollHeader

HEADER = UnrollHeader("0123456789abcdef", "run-1", "default", "actor-0123456789ab", 7)

PLAIN = EnvironmentSpec(
    "CartPole-v1", (ArraySpec("default", "float32", (4,)),), (DiscreteSpec("default", (2,)),)
)
RICH = EnvironmentSpec(
    "rich",
    (
        ArraySpec("image", "uint8", (2, 3), 0, 255),
        ArraySpec("level", "int32", (), 0, 9),
        ArraySpec("state", "float32", (4,)),
    ),
    (
        DiscreteSpec("move", (3,)),
        DiscreteSpec("keys", (2, 4), scalar=False),
        ContinuousSpec("steer", (2,), (-1.0, -1.0), (1.0, 1.0)),
    ),
    action_mask=True,
    tasks=("left", "right"),
)
RICH_CORE = {"hidden": (5,), "cell": (5,)}


def sample(
    spec: EnvironmentSpec = PLAIN,
    core_shapes: Mapping[str, tuple[int, ...]] | None = None,
    *,
    rows: int = 3,
    slots: int = 2,
    seed: int = 0,
    header: UnrollHeader = HEADER,
) -> Unroll:
    """A valid unroll with every optional part that the spec allows."""
    rng = np.random.default_rng(seed)
    core_shapes = core_shapes or {}
    valid = rng.random((rows, slots)) < 0.8
    ended = rng.random((rows, slots)) < 0.3
    action = {a.name: _actions(rng, a, (rows, slots)) for a in spec.action}
    return Unroll(
        header=header,
        obs={o.name: _observations(rng, o, (rows + 1, slots)) for o in spec.observation},
        action=action,
        behaviour_log_prob=-rng.random((rows, slots), np.float32),
        reward=rng.standard_normal((rows, slots), np.float32),
        terminated=valid & ended,
        truncated=valid & ~ended & (rng.random((rows, slots)) < 0.3),
        valid=valid,
        task=rng.integers(len(spec.tasks), size=(rows + 1, slots), dtype=np.int32),
        behaviour_version=rng.integers(1000, size=(rows, slots)),
        core_state={
            name: rng.standard_normal((slots, *shape), np.float32)
            for name, shape in core_shapes.items()
        },
        last_action={a.name: _actions(rng, a, (slots,)) for a in spec.action},
        last_reward=rng.standard_normal(slots, np.float32),
        reset=rng.random(slots) < 0.5,
        slot=np.arange(slots, dtype=np.int32),
        action_mask=_mask(rng, spec, action, valid) if spec.action_mask else None,
        distribution={
            a.name: rng.standard_normal((rows, slots, a.parameters), np.float32)
            for a in spec.action
        },
        extras={"teacher": rng.standard_normal((rows, slots, 2), np.float32)},
        episodes=(Episode(1.5, 10, 40, 0, 0, 3), Episode(-2.0, 1, 4, 0, slots - 1, 0))[:rows],
    )


def assert_equal(left: Unroll, right: Unroll) -> None:
    """Both hold the same bytes under the same names, dtypes and shapes."""
    assert vars(left).keys() == vars(right).keys()
    for field, value in vars(left).items():
        other = vars(right)[field]
        if isinstance(value, np.ndarray):
            assert_same(value, other)
        elif isinstance(value, dict):
            assert list(value) == list(other), field
            for name in value:
                assert_same(value[name], other[name])
        else:
            assert value == other, field


def assert_same(left: NDArray[np.generic], right: NDArray[np.generic]) -> None:
    """The same elements, bit by bit, whatever the layout and byte order in memory."""
    assert left.shape == right.shape
    little = left.astype(left.dtype.newbyteorder("<"))
    assert little.dtype == right.dtype
    assert little.tobytes() == right.tobytes()


def _observations(
    rng: np.random.Generator, spec: ArraySpec, lead: tuple[int, ...]
) -> NDArray[np.generic]:
    if np.dtype(spec.dtype).kind == "f":
        return rng.standard_normal((*lead, *spec.shape)).astype(spec.dtype)
    return rng.integers(
        int(spec.low), int(spec.high), (*lead, *spec.shape), dtype=spec.dtype, endpoint=True
    )


def _actions(
    rng: np.random.Generator, spec: ActionSpec, lead: tuple[int, ...]
) -> NDArray[np.generic]:
    if isinstance(spec, ContinuousSpec):
        return rng.standard_normal((*lead, *spec.shape), np.float32)
    choices = rng.integers(spec.choices, size=(*lead, len(spec.choices)))
    return choices[..., 0] if spec.scalar else choices


def _mask(
    rng: np.random.Generator, spec: EnvironmentSpec, action: Arrays, valid: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """A random mask that allows what was chosen in valid rows."""
    rows, slots = valid.shape
    mask = rng.random((rows + 1, slots, spec.mask_size)) < 0.5
    start = 0
    for discrete in spec.action:
        if not isinstance(discrete, DiscreteSpec):
            continue
        chosen = action[discrete.name].reshape(rows, slots, -1)
        for choice, count in enumerate(discrete.choices):
            for t, n in np.argwhere(valid):
                mask[t, n, start + chosen[t, n, choice]] = True
            start += count
    return mask
