"""Sampling in numpy against torch's distributions, and against chance itself."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import Categorical, Normal

from pronk.policy.sampling import log_prob, mode, sample
from pronk.wire.spec import ContinuousSpec, DiscreteSpec

SCALAR = DiscreteSpec("choice", (5,))
MULTI = DiscreteSpec("buttons", (2, 4, 3), scalar=False)
GAUSSIAN = ContinuousSpec("joints", (2, 3), (-1.0,) * 6, (1.0,) * 6)
ALL = (SCALAR, MULTI, GAUSSIAN)


def random_params(rng, actions, slots, spread=2.0):
    params = {}
    for action in actions:
        params[action.name] = rng.normal(0, spread, (slots, action.parameters)).astype(np.float32)
        if isinstance(action, ContinuousSpec):
            params[action.name][:, action.size :] = rng.uniform(-3, 1, (slots, action.size))
    return params


def torch_log_prob(actions, params, action):
    """The same from torch.distributions, in float64."""
    total = 0.0
    for spec in actions:
        given = torch.from_numpy(params[spec.name]).double()
        value = torch.from_numpy(action[spec.name])
        if isinstance(spec, ContinuousSpec):
            mean, log_std = given.split(spec.size, -1)
            value = value.reshape(mean.shape).double()
            total = total + Normal(mean, log_std.exp()).log_prob(value).sum(-1)
        else:
            columns = value.unsqueeze(-1) if spec.scalar else value
            for index, logits in enumerate(given.split(list(spec.choices), -1)):
                total = total + Categorical(logits=logits).log_prob(columns[..., index])
    return total.numpy()


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.sampled_from(ALL), min_size=1, max_size=3, unique=True),
    st.integers(1, 17),
    st.integers(0, 2**32),
    st.floats(0.0, 30.0),
)
def test_log_prob_is_torchs(actions, slots, seed, spread):
    rng = np.random.default_rng(seed)
    actions = tuple(actions)
    params = random_params(rng, actions, slots, spread)
    before = {name: array.copy() for name, array in params.items()}
    action, drawn = sample(actions, params, rng)
    expected = torch_log_prob(actions, params, action)
    assert drawn.dtype == np.float32
    assert drawn.shape == (slots,)
    np.testing.assert_allclose(drawn, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(log_prob(actions, params, action), expected, rtol=1e-5, atol=1e-5)
    for spec in actions:
        assert action[spec.name].shape == (slots, *spec.shape)
        assert action[spec.name].dtype == (
            np.float32 if isinstance(spec, ContinuousSpec) else np.int64
        )
        np.testing.assert_array_equal(params[spec.name], before[spec.name])


def test_log_prob_takes_time_and_slots():
    rng = np.random.default_rng(0)
    params = random_params(rng, ALL, 12)
    action, expected = sample(ALL, params, rng)
    rows = {name: array.reshape(3, 4, -1) for name, array in params.items()}
    actions = {name: array.reshape(3, 4, *array.shape[1:]) for name, array in action.items()}
    np.testing.assert_allclose(log_prob(ALL, rows, actions), expected.reshape(3, 4), atol=1e-6)


def chi_square_limit(freedom):
    """The value that chance exceeds once in about a million (Wilson–Hilferty)."""
    spread = 2 / (9 * freedom)
    return freedom * (1 - spread + 4.75 * math.sqrt(spread)) ** 3


@pytest.mark.parametrize("spread", [0.0, 1.0, 3.0])
def test_frequencies_match_probabilities(spread):
    rng = np.random.default_rng(1)
    logits = rng.normal(0, spread, 6).astype(np.float32)
    draws = 60_000
    action, _ = sample(
        (DiscreteSpec("choice", (6,)),), {"choice": np.tile(logits, (draws, 1))}, rng
    )
    counts = np.bincount(action["choice"], minlength=6)
    expected = draws * np.exp(logits) / np.exp(logits).sum()
    assert expected.min() > 5
    assert ((counts - expected) ** 2 / expected).sum() < chi_square_limit(5)


def test_choices_side_by_side_are_independent():
    rng = np.random.default_rng(2)
    logits = rng.normal(0, 1, MULTI.parameters).astype(np.float32)
    draws = 60_000
    action, _ = sample((MULTI,), {"buttons": np.tile(logits, (draws, 1))}, rng)
    flat = np.ravel_multi_index(action["buttons"].T, MULTI.choices)
    first, second, third = (np.exp(part) for part in np.split(logits, [2, 6]))
    joint = (first[:, None, None] * second[:, None] * third).ravel()
    expected = draws * joint / joint.sum()
    counts = np.bincount(flat, minlength=24)
    assert ((counts - expected) ** 2 / expected).sum() < chi_square_limit(23)


def test_slots_are_independent():
    """Neighbouring slots with equal logits agree as often as chance has it."""
    rng = np.random.default_rng(3)
    params = {"choice": np.zeros((40_000, 4), np.float32)}
    drawn = sample((DiscreteSpec("choice", (4,)),), params, rng)[0]["choice"]
    agree = np.mean(drawn[::2] == drawn[1::2])
    assert abs(agree - 0.25) < 5 * math.sqrt(0.25 * 0.75 / 20_000)


def test_gaussian_moments():
    rng = np.random.default_rng(4)
    spec = ContinuousSpec("joints", (2,), (-1.0,) * 2, (1.0,) * 2)
    params = np.tile(np.array([0.5, -2.0, -1.0, 1.0], np.float32), (50_000, 1))
    drawn = sample((spec,), {"joints": params}, rng)[0]["joints"]
    std = np.exp(params[0, 2:])
    np.testing.assert_allclose(drawn.mean(0), params[0, :2], atol=5 * std.max() / 223)
    np.testing.assert_allclose(drawn.std(0), std, rtol=0.02)
    z = (drawn - params[0, :2]) / std
    inside = np.mean(np.abs(z) < 1, axis=0)
    np.testing.assert_allclose(inside, 0.6827, atol=0.011)
    assert abs(np.corrcoef(z.T)[0, 1]) < 0.025


class Extremes:
    """A generator whose uniform draws are the ends of the range."""

    def __init__(self, value):
        self.value = np.float32(value)

    def random(self, size, dtype):
        return np.full(size, self.value, dtype)


@settings(deadline=None, max_examples=200)
@given(
    st.lists(st.booleans(), min_size=2, max_size=12).filter(any),
    st.integers(0, 2**32),
    st.sampled_from([0.0, 2.0**-24, 0.5, 1 - 2.0**-24]),
)
def test_masked_choices_are_never_drawn(allowed, seed, draw):
    """Not even by the smallest and largest draws that the generator can make."""
    allowed = np.array(allowed)
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 3, (64, allowed.size)).astype(np.float32)
    logits[:, ~allowed] = -1e9
    actions = (DiscreteSpec("choice", (allowed.size,)),)
    for source in (rng, Extremes(draw)):
        action, log_probs = sample(actions, {"choice": logits}, source)
        assert allowed[action["choice"]].all()
        assert (log_probs > -100).all()
    assert allowed[mode(actions, {"choice": logits})["choice"]].all()


@settings(deadline=None, max_examples=100)
@given(st.integers(1, 2000), st.integers(0, 2**32), st.floats(0, 20))
def test_largest_draw_stays_in_range(count, seed, spread):
    logits = np.random.default_rng(seed).normal(0, spread, (8, count)).astype(np.float32)
    action, _ = sample((DiscreteSpec("a", (count,)),), {"a": logits}, Extremes(1 - 2.0**-24))
    assert (action["a"] < count).all()


def test_everything_masked_is_still_an_action():
    """A slot that is not acting may have no allowed choice at all."""
    rng = np.random.default_rng(0)
    params = {"choice": np.full((9, 5), -1e9, np.float32)}
    action, log_probs = sample((SCALAR,), params, rng)
    assert ((action["choice"] >= 0) & (action["choice"] < 5)).all()
    np.testing.assert_allclose(log_probs, -math.log(5), rtol=1e-6)


def test_mode_is_the_most_likely():
    params = {
        "choice": np.array([[0, 1, 2, 9, 3], [7, 1, 1, 1, 1]], np.float32),
        "buttons": np.array([[0, 1, 5, 0, 0, 0, 0, 0, 1], [1, 0, 0, 0, 0, 5, 1, 0, 0]], np.float32),
        "joints": np.arange(24, dtype=np.float32).reshape(2, 12),
    }
    best = mode(ALL, params)
    np.testing.assert_array_equal(best["choice"], [3, 0])
    np.testing.assert_array_equal(best["buttons"], [[1, 0, 2], [0, 3, 0]])
    np.testing.assert_array_equal(best["joints"][1], np.arange(12, 18).reshape(2, 3))
    rivals = [sample(ALL, params, np.random.default_rng(seed))[0] for seed in range(50)]
    assert all((log_prob(ALL, params, best) >= log_prob(ALL, params, r)).all() for r in rivals)


def test_seed_decides_everything():
    params = random_params(np.random.default_rng(0), ALL, 16)
    first, second, third = (sample(ALL, params, np.random.default_rng(s)) for s in (5, 5, 6))
    for spec in ALL:
        np.testing.assert_array_equal(first[0][spec.name], second[0][spec.name])
    np.testing.assert_array_equal(first[1], second[1])
    assert not np.array_equal(first[1], third[1])
