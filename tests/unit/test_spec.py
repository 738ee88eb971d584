"""Specs survive the wire."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from state_disk import A, B, Disk, refused
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
from pronk.wire.v1 import registry_pb2 as pb
from pronk.wire.v1 import spec_pb2, tensor_pb2

names = st.sampled_from(["default", "λ", "a b", ""])
shapes = st.lists(st.integers(0, 30), max_size=4).map(tuple)
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


SPOILED = {
    "an action without kind": lambda m: m.action.add(name="odd"),
    "two actions of one name": lambda m: m.action.append(m.action[0]),
    "two observations of one name": lambda m: m.observation.append(m.observation[0]),
    "two tasks of one name": lambda m: m.tasks.append("left"),
    "no observation": lambda m: m.ClearField("observation"),
    "no action": lambda m: m.ClearField("action"),
    "no task": lambda m: m.ClearField("tasks"),
    "no agent": lambda m: m.ClearField("agents"),
    "no frames": lambda m: m.ClearField("frames_per_step"),
    "no choices": lambda m: m.action[0].discrete.ClearField("choices"),
    "a choice of nothing": lambda m: m.action[1].discrete.choices.append(0),
    "a scalar of two": lambda m: m.action[0].discrete.choices.append(2),
    "a bound too many": lambda m: m.action[2].continuous.low.append(0),
    "no upper bounds": lambda m: m.action[2].continuous.ClearField("high"),
    "an axis without bounds": lambda m: m.action[2].continuous.shape.append(2),
    "a lower bound of NaN": lambda m: setattr(m.observation[0], "low", math.nan),
    "an upper bound of NaN": lambda m: setattr(m.observation[0], "high", math.nan),
    "an action's bound of NaN": lambda m: m.action[2].continuous.high.__setitem__(0, math.nan),
}
UNKNOWN = {
    "no data type": lambda m: m.observation[0].ClearField("dtype"),
    "an unknown data type": lambda m: setattr(m.observation[0], "dtype", 99),
}
OVERSIZED = {
    "a shape of 2⁶²": lambda m: m.observation[0].shape.extend([2**31 - 1, 2**31 - 1]),
    "an empty shape of 2⁶²": lambda m: m.observation[0].shape.extend([0, 2**31 - 1, 2**31 - 1]),
    "many dimensions": lambda m: m.observation[0].shape.extend([1] * 100),
    "an action of many dimensions": lambda m: m.action[2].continuous.shape.extend([1] * 100),
    "an empty action of 2⁶²": lambda m: m.action.add(name="steer too").continuous.shape.extend(
        [0, 2**31 - 1, 2**31 - 1]
    ),
    "many choices": lambda m: m.action[1].discrete.choices.extend([2] * 40_000),
    "choices of many": lambda m: m.action[1].discrete.choices.append(2**32 - 1),
    "many observations": lambda m: [
        m.observation.add(name=str(number), dtype=1) for number in range(300)
    ],
    "many actions": lambda m: [
        m.action.add(name=str(number)).discrete.choices.append(2) for number in range(300)
    ],
    "many tasks": lambda m: m.tasks.extend(str(number) for number in range(5000)),
    "many agents": lambda m: m.agents.extend(str(number) for number in range(5000)),
    "a long name": lambda m: m.tasks.append("x" * 1000),
    "a long environment": lambda m: setattr(m, "environment", "x" * 1000),
}
REASONS = {name: (spoil, "spec") for name, spoil in SPOILED.items()}
REASONS |= {name: (spoil, "dtype") for name, spoil in UNKNOWN.items()}
REASONS |= {name: (spoil, "oversized") for name, spoil in OVERSIZED.items()}


@pytest.mark.parametrize(("spoil", "reason"), REASONS.values(), ids=REASONS)
def test_what_no_environment_has_is_refused(spoil, reason):
    assert refusal(spoiled(spoil)) == reason


@pytest.mark.parametrize("spoil", [spoil for spoil, _ in REASONS.values()], ids=REASONS)
def test_who_registers_it_first_is_refused_and_nothing_is_kept(spoil):
    disk = Disk()
    with refused("INVALID_ARGUMENT", "environment's spec"):
        disk.join(pb.MEMBER_KIND_TRAIN, A, spec=spoiled(spoil))
    assert disk.saved.run.spec is None
    disk.join(pb.MEMBER_KIND_TRAIN, B)  # the right one comes as if nothing had been


@pytest.mark.parametrize("name", tensor_pb2.DataType.keys())
def test_every_data_type_that_travels_is_known(name):
    message = spoiled(lambda m: setattr(m.observation[0], "dtype", tensor_pb2.DataType.Value(name)))
    if name == "DATA_TYPE_UNSPECIFIED":
        assert refusal(message) == "dtype"
    else:
        assert from_proto(message).observation[0].dtype in name.lower()
