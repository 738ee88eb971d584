"""Specs survive the wire."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from unroll_samples import PLAIN, RICH

from pronk.wire.errors import WireError
from pronk.wire.spec import (
    ArraySpec,
    ContinuousSpec,
    DiscreteSpec,
    EnvironmentSpec,
    from_proto,
    to_proto,
)
from pronk.wire.v1 import spec_pb2

names = st.sampled_from(["default", "λ", "a b", ""])
shapes = st.lists(st.integers(0, 2**32 - 1), max_size=4).map(tuple)
bounds = st.floats(allow_nan=False)
choices = st.lists(st.integers(1, 100), min_size=1, max_size=3).map(tuple)
arrays = st.builds(
    ArraySpec, names, st.sampled_from(["bool", "uint8", "int64", "float32"]), shapes, bounds, bounds
)
actions = st.one_of(
    st.builds(DiscreteSpec, names, choices.map(lambda c: c[:1]), st.just(True)),
    st.builds(DiscreteSpec, names, choices, st.just(False)),
    st.integers(0, 3).map(
        lambda size: ContinuousSpec("steer", (size,), (-math.inf,) * size, (1.5,) * size)
    ),
)


def several(items, key=lambda item: item):
    return st.lists(items, min_size=1, max_size=3, unique_by=key).map(tuple)


specs = st.builds(
    EnvironmentSpec,
    names,
    several(arrays, lambda array: array.name),
    several(actions, lambda action: action.name),
    st.booleans(),
    several(names),
    several(names),
    st.integers(1, 100),
)


@given(specs)
def test_specs_survive(spec):
    sent = to_proto(spec).SerializeToString()
    assert from_proto(spec_pb2.EnvironmentSpec.FromString(sent)) == spec


def test_sizes_of_actions_and_masks():
    assert PLAIN.mask_size == 2
    assert RICH.mask_size == 3 + 2 + 4
    move, keys, steer = RICH.action
    assert (move.shape, keys.shape, steer.shape) == ((), (2,), (2,))
    assert (move.parameters, keys.parameters, steer.parameters) == (3, 6, 4)


def refusal(message):
    with pytest.raises(WireError) as caught:
        from_proto(message)
    return caught.value.reason


def spoiled(spoil):
    message = to_proto(RICH)
    spoil(message)
    return message


@pytest.mark.parametrize(
    "spoil",
    [
        lambda m: m.action.add(name="odd"),
        lambda m: m.action.append(m.action[0]),
        lambda m: m.observation.append(m.observation[0]),
        lambda m: m.tasks.append("left"),
        lambda m: m.ClearField("observation"),
        lambda m: m.ClearField("action"),
        lambda m: m.ClearField("tasks"),
        lambda m: m.ClearField("agents"),
        lambda m: m.ClearField("frames_per_step"),
        lambda m: m.action[0].discrete.ClearField("choices"),
        lambda m: m.action[1].discrete.choices.append(0),
        lambda m: m.action[0].discrete.choices.append(2),
        lambda m: m.action[2].continuous.low.append(0),
        lambda m: m.action[2].continuous.ClearField("high"),
        lambda m: m.action[2].continuous.shape.append(2),
    ],
)
def test_what_no_environment_has_is_refused(spoil):
    assert refusal(spoiled(spoil)) == "spec"


def test_an_unknown_dtype_is_refused():
    assert refusal(spoiled(lambda m: setattr(m.observation[0], "dtype", 0))) == "dtype"
