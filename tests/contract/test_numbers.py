"""What an actor lets through a learner takes, whatever numbers an environment shows."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from unroll_samples import HEADER, sample

from pronk.envs.inspection import Inspector
from pronk.wire.bounds import MAX_FLOAT
from pronk.wire.errors import WireError
from pronk.wire.spec import ArraySpec, DiscreteSpec, EnvironmentSpec
from pronk.wire.unroll import Unroll
from pronk.wire.validate import Expectation, check

JUST_ABOVE = float(np.nextafter(np.float32(MAX_FLOAT), np.float32(np.inf)))
NUMBERS = st.floats(width=32) | st.sampled_from(
    [sign * value for sign in (-1, 1) for value in (0.5, MAX_FLOAT, JUST_ABOVE)]
)


def unroll_of(dtype: str, reward: list[float], shown: list[float]) -> tuple[Unroll, Expectation]:
    """One row of two slots that show two numbers each."""
    array = ArraySpec("state", dtype, (2,), -3.4e38, 3.4e38)  # as CartPole declares
    spec = EnvironmentSpec("Toy-v0", (array,), (DiscreteSpec("default", (2,)),))
    unroll = replace(
        sample(spec, rows=1, slots=2),
        obs={"state": np.array(shown).astype(dtype).reshape(2, 2, 2)},
        reward=np.array([reward], np.float32),
    )
    header = HEADER.run, HEADER.experiment_hash, HEADER.policy
    return unroll, Expectation(*header, spec, unroll_length=1, core_shapes={})


def faults(unroll: Unroll, spec: EnvironmentSpec) -> set[tuple[int, str]]:
    """(slot, reason) of what the actor finds, row by row."""
    inspector = Inspector(spec.observation, spec.action)
    found = set()
    for reward, shown in zip((np.zeros(2), unroll.reward[0]), unroll.obs["state"], strict=True):
        at_once = inspector.faults({"state": shown}, reward.astype(np.float32))
        found |= {(slot, fault.reason) for slot, fault in at_once.items()}
    return found


@pytest.mark.filterwarnings("ignore:overflow")
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@given(
    reward=st.lists(NUMBERS, min_size=2, max_size=2),
    shown=st.lists(NUMBERS, min_size=8, max_size=8),
)
def test_both_ends_refuse_the_same_numbers(dtype, reward, shown):
    unroll, expectation = unroll_of(dtype, reward, shown)
    if found := faults(unroll, expectation.spec):
        with pytest.raises(WireError) as caught:
            check(unroll, expectation)
        assert caught.value.reason in {reason for _, reason in found}
    else:
        check(unroll, expectation)


@pytest.mark.parametrize("where", ["reward", "state"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_bound_itself_is_let_through_by_both_and_the_next_number_by_none(dtype, where):
    def played(value: float) -> tuple[set[tuple[int, str]], Unroll, Expectation]:
        numbers: NDArray = np.zeros(8)
        numbers[-1] = value if where == "state" else 0
        reward = [0.0, value if where == "reward" else 0.0]
        unroll, expectation = unroll_of(dtype, reward, list(numbers))
        return faults(unroll, expectation.spec), unroll, expectation

    for sign in (-1, 1):
        found, unroll, expectation = played(sign * MAX_FLOAT)
        assert not found
        check(unroll, expectation)
        found, unroll, expectation = played(sign * JUST_ABOVE)
        assert found == {(1, "range")}
        with pytest.raises(WireError, match="expected within ±1e\\+09") as caught:
            check(unroll, expectation)
        assert caught.value.reason == "range"
