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
arrays = st.builds(
    ArraySpec, names, st.sampled_from(["bool", "uint8", "int64", "float32"]), shapes, bounds, bounds
)
actions = st.one_of(
    st.builds(
        DiscreteSpec,
        names,
        st.lists(st.integers(1, 100), min_size=1, max_size=3).map(tuple),
        st.booleans(),
    ),
    st.integers(0, 3).flatmap(
        lambda size: st.builds(
            ContinuousSpec,
            names,
            st.just((size,)),
            st.just((-math.inf,) * size),
            st.just((1.5,) * size),
        )
    ),
)
specs = st.builds(
    EnvironmentSpec,
    names,
    st.lists(arrays, max_size=3).map(tuple),
    st.lists(actions, max_size=3).map(tuple),
    st.booleans(),
    st.lists(names, max_size=3).map(tuple),
    st.lists(names, max_size=3).map(tuple),
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


def test_an_action_of_no_kind_is_refused():
    message = spec_pb2.EnvironmentSpec(action=[spec_pb2.ActionSpec(name="odd")])
    with pytest.raises(WireError) as caught:
        from_proto(message)
    assert caught.value.reason == "spec"


def test_an_unknown_dtype_is_refused():
    message = spec_pb2.EnvironmentSpec(observation=[spec_pb2.ArraySpec(name="odd")])
    with pytest.raises(WireError) as caught:
        from_proto(message)
    assert caught.value.reason == "dtype"
