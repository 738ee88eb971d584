"""Episodes that end inside a batch count as if each had been trained alone.

An episode that was cut off is the same as an unroll that stops there: it bootstraps from the value
of its final observation. An episode that terminated bootstraps from 0.
"""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rl_batches import ACTIONS, ends_to_rows, random_batch, rows_of

from pronk.config.schema import AlgorithmConfig
from pronk.rl import vtrace
from pronk.rl.loss import impala_loss

CONFIG = AlgorithmConfig.model_validate(
    {"lambda": 0.95, "rho_bar": 1.3, "rho_pg_bar": 1.1, "c_bar": 0.9, "entropy_cost": 0.3}
)
OPTIONS = {"rho_bar": 1.3, "rho_pg_bar": 1.1, "c_bar": 0.9, "lambda_": 0.95}
ENDS = st.sampled_from(["", "", "cut", "over"])
SLOTS = st.integers(1, 9).flatmap(
    lambda length: st.lists(
        st.tuples(st.booleans(), st.lists(ENDS, min_size=length, max_size=length)),
        min_size=1,
        max_size=3,
    )
)


def trajectories(terminated, truncated, valid):
    """(slot, start, stop, terminated) of every run of rows that belongs to one episode."""
    length, slots = valid.shape
    for b in range(slots):
        start = 0
        for t in range(length):
            if not valid[t, b]:
                start = t + 1
            elif terminated[t, b] or truncated[t, b] or t == length - 1:
                yield b, start, t + 1, bool(terminated[t, b])


def bootstrapped(values, b, start, stop, terminated):
    """V of a trajectory's observations [stop - start + 1, 1], the last one 0 if it terminated."""
    piece = values[start : stop + 1, b : b + 1].clone()
    if terminated:
        piece[-1] = 0.0
    return piece


def check_vtrace(seed, terminated, truncated, valid):
    rng = np.random.default_rng(seed)
    log_rhos, rewards, values = (
        torch.from_numpy(rng.normal(size=(rows, valid.shape[1])))
        for rows in (len(valid), len(valid), len(valid) + 1)
    )
    discounts = 0.9 * torch.from_numpy(~terminated).double()
    flags = torch.from_numpy(valid)
    log_rhos[~flags] = 1e9

    whole = vtrace.from_log_weights(log_rhos, discounts, rewards, values, valid=flags, **OPTIONS)

    # What dead rows hold: their own value as target, and no weight.
    expected_vs = values[:-1].clone()
    expected_advantages = torch.zeros_like(rewards)
    expected_rhos = torch.zeros_like(rewards)
    for b, start, stop, over in trajectories(terminated, truncated, valid):
        rows, column = slice(start, stop), slice(b, b + 1)
        piece = vtrace.from_log_weights(
            log_rhos[rows, column],
            torch.full((stop - start, 1), 0.9, dtype=torch.float64),
            rewards[rows, column],
            bootstrapped(values, b, start, stop, over),
            **OPTIONS,
        )
        expected_vs[rows, column] = piece.vs
        expected_advantages[rows, column] = piece.pg_advantages
        expected_rhos[rows, column] = piece.rhos
    torch.testing.assert_close(whole.vs, expected_vs)
    torch.testing.assert_close(whole.pg_advantages, expected_advantages)
    torch.testing.assert_close(whole.rhos, expected_rhos)


def check_loss(seed, terminated, truncated, valid):
    batch, params, values = random_batch(np.random.default_rng(seed), terminated, truncated, valid)
    leaves = [params["action"], values]

    whole = impala_loss(ACTIONS, CONFIG, params, values, batch)
    gradients = torch.autograd.grad(whole.total, leaves)

    pieces = [
        impala_loss(
            ACTIONS,
            CONFIG,
            {"action": params["action"][start : stop + 1, b : b + 1]},
            bootstrapped(values, b, start, stop, over),
            rows_of(batch, start, stop, b),
        )
        for b, start, stop, over in trajectories(terminated, truncated, valid)
    ]
    nothing = 0.0 * (values.sum() + params["action"].sum())
    total = sum((piece.total for piece in pieces), nothing)
    torch.testing.assert_close(whole.total, total)
    for name in ("policy", "value", "entropy"):
        parts = sum((getattr(piece, name) for piece in pieces), torch.zeros(()).double())
        torch.testing.assert_close(getattr(whole, name), parts)
    torch.testing.assert_close(gradients, torch.autograd.grad(total, leaves))
    assert int(whole.steps) == valid.sum() == sum(int(piece.steps) for piece in pieces)


@settings(max_examples=100, deadline=None)
@given(slots=SLOTS, seed=st.integers(0, 2**32 - 1))
def test_targets_of_a_batch_are_those_of_its_trajectories(slots, seed):
    first_valid, ends = zip(*slots, strict=True)
    check_vtrace(seed, *ends_to_rows(ends, first_valid))


@settings(max_examples=50, deadline=None)
@given(slots=SLOTS, seed=st.integers(0, 2**32 - 1))
def test_loss_of_a_batch_is_the_sum_over_its_trajectories(slots, seed):
    first_valid, ends = zip(*slots, strict=True)
    check_loss(seed, *ends_to_rows(ends, first_valid))


@pytest.mark.parametrize("kind", ["cut", "over"])
def test_an_end_at_every_row(kind):
    """One slot for every row of 6, which ends there, and one that begins on a dead row."""
    ends = [[kind if t == row else "" for t in range(6)] for row in range(6)]
    flags = ends_to_rows([*ends, [""] * 6], [True] * 6 + [False])

    check_vtrace(0, *flags)
    check_loss(0, *flags)
