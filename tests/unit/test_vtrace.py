"""V-trace against the paper's sum, another implementation, known numbers and its fixed point."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pronk.rl import vtrace

CLIPS = (0.4, 1.0, 2.2, float("inf"))


def paper_sum(log_rhos, discounts, rewards, values, rho_bar, rho_pg_bar, c_bar, lambda_):
    """v_s = V_s + Σ_t (Π_{s≤i<t} γ_i c_i) δ_t, O(T²), float64: equation 1 as written."""
    length = len(rewards)
    rhos = np.exp(log_rhos)
    traces = lambda_ * np.minimum(c_bar, rhos)
    deltas = np.minimum(rho_bar, rhos) * (rewards + discounts * values[1:] - values[:-1])
    vs = np.empty_like(values)
    vs[-1] = values[-1]
    for s in range(length):
        vs[s] = values[s] + sum(
            np.prod(discounts[s:t] * traces[s:t], axis=0) * deltas[t] for t in range(s, length)
        )
    advantages = np.minimum(rho_pg_bar, rhos) * (rewards + discounts * vs[1:] - values[:-1])
    return vs[:-1], advantages


def sample(seed, length, slots, dtype=np.float64):
    """Weights on both sides of every clip, and a discount of its own for every step."""
    rng = np.random.default_rng(seed)
    return {
        "log_rhos": rng.normal(0.0, 1.2, (length, slots)).astype(dtype),
        "discounts": (rng.uniform(0, 1, (length, slots)) ** 0.3).astype(dtype),
        "rewards": rng.normal(size=(length, slots)).astype(dtype),
        "values": rng.normal(size=(length + 1, slots)).astype(dtype),
    }


def run(inputs, **options):
    return vtrace.from_log_weights(**{k: torch.from_numpy(v) for k, v in inputs.items()}, **options)


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    length=st.integers(1, 12),
    slots=st.integers(1, 4),
    rho_bar=st.sampled_from(CLIPS),
    rho_pg_bar=st.sampled_from(CLIPS),
    c_bar=st.sampled_from(CLIPS),
    lambda_=st.sampled_from((0.0, 0.5, 0.95, 1.0)),
)
def test_equals_the_papers_sum(seed, length, slots, **options):
    inputs = sample(seed, length, slots)
    vs, advantages = paper_sum(**inputs, **options)

    trace = run(inputs, **options)

    np.testing.assert_allclose(trace.vs, vs, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(trace.pg_advantages, advantages, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(trace.rhos, np.exp(inputs["log_rhos"]), rtol=1e-12)


@pytest.mark.parametrize(("rho_bar", "rho_pg_bar"), [(1.0, 1.0), (1.0, 2.2), (3.7, 2.2), (0.5, 1)])
def test_float32_is_within_1e_5_of_the_papers_sum(rho_bar, rho_pg_bar):
    options = {"rho_bar": rho_bar, "rho_pg_bar": rho_pg_bar, "c_bar": 1.0, "lambda_": 0.97}
    inputs = sample(3, 100, 32, np.float32)
    rhos = np.exp(inputs["log_rhos"])
    for bar in options.values():
        assert 0.05 < np.mean(rhos < bar) < 0.95, "the sample must lie on both sides of each clip"
    vs, advantages = paper_sum(**{k: v.astype(np.float64) for k, v in inputs.items()}, **options)

    trace = run(inputs, **options)

    assert trace.vs.dtype == torch.float32
    np.testing.assert_allclose(trace.vs, vs, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(trace.pg_advantages, advantages, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("rho_bar", "rho_pg_bar", "lambda_"),
    [(1.0, 1.0, 1.0), (3.7, 2.2, 1.0), (0.4, 2.2, 1.0), (1.0, 1.0, 0.9), (2.2, 0.4, 0.0)],
)
def test_agrees_with_rlax(dtype, rho_bar, rho_pg_bar, lambda_):
    """rlax fixes c̄ at 1; its advantage bootstraps from a mix of v and V unless λ is 1."""
    rlax = pytest.importorskip("rlax", reason="the extra `dev` brings rlax")
    import jax

    def one_slot(values, rewards, discounts, rhos):
        return rlax.vtrace_td_error_and_advantage(
            values[:-1], values[1:], rewards, discounts, rhos, lambda_, rho_bar, rho_pg_bar
        )

    inputs = sample(11, 20, 8, dtype)
    with jax.enable_x64(dtype is np.float64):
        theirs = jax.vmap(one_slot, in_axes=1, out_axes=1)(
            inputs["values"], inputs["rewards"], inputs["discounts"], np.exp(inputs["log_rhos"])
        )
        errors, advantages = np.asarray(theirs.errors), np.asarray(theirs.pg_advantage)

    ours = run(inputs, rho_bar=rho_bar, rho_pg_bar=rho_pg_bar, lambda_=lambda_)

    assert errors.dtype == dtype
    np.testing.assert_allclose(
        ours.vs.numpy() - inputs["values"][:-1], errors, rtol=1e-5, atol=1e-5
    )
    if lambda_ == 1.0:
        np.testing.assert_allclose(ours.pg_advantages, advantages, rtol=1e-5, atol=1e-5)


def test_golden_vector():
    """The numbers that google-deepmind/scalable_agent gives on its test's recipe."""
    count = np.arange(25, dtype=np.float32).reshape(5, 5)
    inputs = {
        "log_rhos": 5 * (count / 25 - 0.5),
        "discounts": np.tile(0.9 / np.arange(1, 6, dtype=np.float32), (5, 1)),
        "rewards": count,
        "values": np.concatenate([count / 5, np.arange(1, 6, dtype=np.float32)[None]]),
    }

    trace = run(inputs, rho_bar=3.7, rho_pg_bar=2.2)

    np.testing.assert_allclose(
        trace.vs[:, 0], [0.92981553, 12.586079, 53.25023, 84.997055, 66.53], rtol=1e-6
    )


def test_on_policy_errors_are_generalised_advantages():
    """With π = μ, v − V is GAE(λ) (Schulman et al., arXiv 1506.02438, equation 16)."""
    inputs = sample(5, 15, 3) | {"log_rhos": np.zeros((15, 3))}
    values, discounts = inputs["values"], inputs["discounts"]
    deltas = inputs["rewards"] + discounts * values[1:] - values[:-1]
    expected = np.zeros((16, 3))
    for t in reversed(range(15)):
        expected[t] = deltas[t] + 0.8 * discounts[t] * expected[t + 1]

    trace = run(inputs, lambda_=0.8)

    np.testing.assert_allclose(trace.vs.numpy() - values[:-1], expected[:-1], rtol=1e-9, atol=1e-9)


def test_logits_give_what_their_log_weights_give():
    rng = np.random.default_rng(2)
    inputs = {k: torch.from_numpy(v) for k, v in sample(2, 7, 4).items()}
    behaviour, target = (torch.from_numpy(rng.normal(size=(7, 4, 3))) for _ in range(2))
    actions = torch.from_numpy(rng.integers(0, 3, (7, 4)))
    valid = torch.from_numpy(rng.random((7, 4)) < 0.8)
    options = {"rho_bar": 1.5, "rho_pg_bar": 1.2, "c_bar": 0.9, "lambda_": 0.9, "valid": valid}
    ratio = torch.softmax(target, -1) / torch.softmax(behaviour, -1)
    inputs["log_rhos"] = torch.log(torch.take_along_dim(ratio, actions[..., None], -1)[..., 0])
    expected = vtrace.from_log_weights(**inputs, **options)
    del inputs["log_rhos"]

    actual = vtrace.from_logits(behaviour, target, actions, **inputs, **options)

    for name in ("vs", "pg_advantages", "rhos"):
        torch.testing.assert_close(getattr(actual, name), getattr(expected, name))
    same = vtrace.from_logits(target, target, actions, **inputs)
    torch.testing.assert_close(same.rhos, torch.ones(7, 4, dtype=torch.float64))


def test_targets_carry_no_gradient():
    inputs = {k: torch.from_numpy(v).requires_grad_() for k, v in sample(1, 4, 2).items()}

    trace = vtrace.from_log_weights(**inputs)

    assert not any(t.requires_grad for t in (trace.vs, trace.pg_advantages, trace.rhos))


class Chain:
    """A random Markov decision process of 5 states and 2 actions, and two policies on it."""

    gamma = 0.9

    def __init__(self):
        rng = np.random.default_rng(7)
        self.moves = rng.dirichlet(np.ones(5), (5, 2))  # p(y | x, a)
        self.reward = rng.normal(size=(5, 2))
        self.mu = rng.dirichlet(np.ones(2), 5)
        self.pi = rng.dirichlet(np.ones(2), 5)

    def value_of(self, policy):
        """V^policy, from the linear equations."""
        moves = np.einsum("xa,xay->xy", policy, self.moves)
        return np.linalg.solve(np.eye(5) - self.gamma * moves, (policy * self.reward).sum(1))

    def clipped_policy(self, rho_bar):
        """π_ρ̄ ∝ min(ρ̄ μ, π): equation 3 of the paper."""
        clipped = np.minimum(rho_bar * self.mu, self.pi)
        return clipped / clipped.sum(1, keepdims=True)

    def fixed_point(self, **options):
        """Iterate V ← E_μ[v | x], exactly: every path of two steps is a slot, weighted."""
        paths = np.array(list(itertools.product(*map(range, (5, 2, 5, 2, 5)))))
        x0, a0, x1, a1, x2 = paths.T
        chance = self.mu[x0, a0] * self.moves[x0, a0, x1] * self.mu[x1, a1] * self.moves[x1, a1, x2]
        states, acted = np.array([x0, x1, x2]), np.array([a0, a1])
        ratio = (self.pi / self.mu)[states[:2], acted]
        rewards, discounts = self.reward[states[:2], acted], np.full(ratio.shape, self.gamma)
        value = np.zeros(5)
        for _ in range(400):
            inputs = {"log_rhos": np.log(ratio), "discounts": discounts, "rewards": rewards}
            vs = run(inputs | {"values": value[states]}, **options).vs[0].numpy()
            value = np.bincount(x0, weights=chance * vs)
        return value


@pytest.mark.parametrize("rho_bar", [0.5, 1.0, 1.5])
def test_fixed_point_is_the_value_of_the_clipped_policy(rho_bar):
    chain = Chain()

    value = chain.fixed_point(rho_bar=rho_bar)

    np.testing.assert_allclose(value, chain.value_of(chain.clipped_policy(rho_bar)), atol=1e-8)
    assert np.abs(value - chain.value_of(chain.pi)).max() > 0.05


def test_fixed_point_is_the_policys_own_value_without_clipping():
    chain = Chain()

    value = chain.fixed_point(rho_bar=float("inf"))

    np.testing.assert_allclose(value, chain.value_of(chain.pi), atol=1e-8)


@pytest.mark.parametrize("options", [{"c_bar": 0.3}, {"lambda_": 0.0}, {"rho_pg_bar": 0.1}])
def test_fixed_point_does_not_depend_on_traces(options):
    chain = Chain()

    value = chain.fixed_point(rho_bar=1.0, **options)

    np.testing.assert_allclose(value, chain.value_of(chain.clipped_policy(1.0)), atol=1e-8)
