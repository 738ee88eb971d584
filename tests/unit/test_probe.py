import numpy as np
import policy_cases as cases
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pronk.policy import probe, signature
from pronk.wire.spec import ArraySpec, DiscreteSpec

CORE = {"h": (8,), "c": (8,)}
BOUNDED = cases.spec_of(
    observation=(
        ArraySpec("unit", "float32", (50,), -0.1, 0.2),
        ArraySpec("positive", "float64", (50,), low=0.0),
        ArraySpec("year", "int64", (50,), 2000, 2020),
        ArraySpec("any", "int16", (50,)),
        ArraySpec("most", "uint64", (50,), 0, 2.0**64),
        ArraySpec("huge", "int8", (50,), -(2.0**40), 2.0**40),
    )
)


@pytest.mark.parametrize("name", cases.FEWER)
def test_probe_has_every_input_in_the_order_of_the_signature(name):
    spec, _ = cases.CASES[name]
    batch = probe.make(spec, CORE, rows=5)
    ports = signature.inputs(spec, CORE)
    assert list(batch) == [port.name for port in ports]
    for port in ports:
        array = batch[port.name]
        assert (array.dtype.name, array.shape) == (port.dtype, (5, *port.shape))


@given(st.integers(1, 9), st.integers(0, 1000))
def test_probe_stays_within_bounds(rows, seed):
    batch = probe.make(BOUNDED, CORE, rows, seed)
    for array in BOUNDED.observation:
        values = batch["obs." + array.name]
        assert np.isfinite(values).all()
        assert (values >= array.low).all()
        assert (values <= array.high).all()
        assert len(np.unique(values)) > 5


@given(st.integers(1, 9), st.integers(0, 1000))
def test_every_choice_keeps_an_alternative(rows, seed):
    spec, _ = cases.CASES["last-multi-lstm"]
    mask = probe.make(spec, CORE, rows, seed)["action_mask"]
    start = 0
    for action in spec.action:
        assert isinstance(action, DiscreteSpec)
        for count in action.choices:
            assert mask[:, start : start + count].any(1).all()
            start += count
    assert start == mask.shape[1] == spec.mask_size


def test_probe_repeats_itself():
    first, second = (probe.make(BOUNDED, CORE) for _ in range(2))
    assert all(np.array_equal(array, second[name]) for name, array in first.items())
    assert not np.array_equal(first["core.h"], probe.make(BOUNDED, CORE, seed=1)["core.h"])


def test_groups():
    batch = {"obs.a": 1, "obs.b.c": 2, "core.h": 3, "reset": 4}
    assert signature.group(batch, signature.OBSERVATION) == {"a": 1, "b.c": 2}
