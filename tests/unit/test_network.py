"""The network: an unroll gives exactly what steps give, whatever ends where."""

import numpy as np
import policy_cases as cases
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pronk.nets.core import LSTM, State
from pronk.nets.network import build
from pronk.nets.normaliser import Normaliser
from pronk.policy import signature
from pronk.policy.torch_engine import call
from pronk.wire.bounds import MAX_FLOAT
from pronk.wire.spec import ArraySpec

ROWS, SLOTS = 6, 3


def unroll_inputs(network, resets, seed=0):
    """Rows of made-up inputs {name: [ROWS, SLOTS, …]}; resets [ROWS, SLOTS]."""
    rows = [cases.batch_of(network, SLOTS, seed=100 * seed + row) for row in range(len(resets))]
    inputs = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    inputs["reset"] = np.asarray(resets)
    for name, array in inputs.items():
        if name.startswith("last_"):
            array[inputs["reset"]] = 0
    return {name: torch.from_numpy(array) for name, array in inputs.items()}


def by_steps(network, inputs):
    """Outputs row by row, as an actor computes them: {name: [ROWS, …]}."""
    outputs = []
    state = {name: array[0] for name, array in inputs.items() if name.startswith("core.")}
    for row in range(len(inputs["reset"])):
        current = {name: array[row] for name, array in inputs.items()}
        step = call(network, current | state)
        state = {
            "core." + name: array
            for name, array in signature.group(step, signature.NEXT_CORE).items()
        }
        outputs.append(step)
    return {name: torch.stack([step[name] for step in outputs]) for name in outputs[0]}


def by_unroll(network, inputs, core_state=None):
    core = signature.group(inputs, signature.CORE)
    return network.unroll(
        signature.group(inputs, signature.OBSERVATION),
        {name: array[0] for name, array in core.items()} if core_state is None else core_state,
        signature.group(inputs, signature.LAST_ACTION),
        inputs["last_reward"],
        inputs["reset"],
        inputs["task"],
        inputs.get("action_mask"),
    )


def assert_same(steps, unrolled):
    for name, array in unrolled.params.items():
        torch.testing.assert_close(array, steps["dist." + name], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(unrolled.value, steps["value"], rtol=1e-5, atol=1e-5)
    for name, array in unrolled.core_state.items():
        torch.testing.assert_close(array, steps["next_core." + name][-1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", cases.FEWER)
@torch.no_grad()
def test_unroll_is_steps_with_a_reset_at_every_row(name):
    network = cases.network_of(name)
    cases.scramble(network, seed=1)
    nowhere = np.zeros((ROWS, SLOTS), bool)
    for row in (None, *range(ROWS)):
        resets = nowhere.copy()
        if row is not None:
            resets[row, row % SLOTS] = True
        inputs = unroll_inputs(network, resets)
        assert_same(by_steps(network, inputs), by_unroll(network, inputs))


@settings(deadline=None, max_examples=30)
@given(
    st.lists(st.lists(st.booleans(), min_size=SLOTS, max_size=SLOTS), min_size=1, max_size=9),
    st.integers(0, 1000),
)
@torch.no_grad()
def test_unroll_is_steps_with_resets_anywhere(resets, seed):
    network = cases.network_of("separate-lstm")
    cases.scramble(network, seed=seed)
    inputs = unroll_inputs(network, np.array(resets), seed)
    assert_same(by_steps(network, inputs), by_unroll(network, inputs))


@torch.no_grad()
def test_unrolls_go_on_from_one_another():
    network = cases.network_of("last-lstm")
    cases.scramble(network, seed=1)
    resets = np.random.default_rng(0).random((ROWS, SLOTS)) < 0.2
    inputs = unroll_inputs(network, resets)
    whole = by_unroll(network, inputs)
    first = by_unroll(network, {name: array[:4] for name, array in inputs.items()})
    second = by_unroll(
        network, {name: array[4:] for name, array in inputs.items()}, first.core_state
    )
    joined = torch.cat([first.params["default"], second.params["default"]])
    torch.testing.assert_close(joined, whole.params["default"], rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_a_reset_forgets_everything_before():
    network = cases.network_of("separate-lstm")
    cases.scramble(network, seed=1)
    resets = np.zeros((ROWS, SLOTS), bool)
    resets[2] = True
    inputs = unroll_inputs(network, resets)
    outputs = by_unroll(network, inputs)
    garbage = {
        name: torch.full((SLOTS, *shape), torch.nan) for name, shape in network.core_shapes.items()
    }
    inputs["obs.default"][:2] += 10
    others = by_unroll(network, inputs, garbage)
    assert torch.equal(outputs.value[2:], others.value[2:])
    assert torch.equal(outputs.params["default"][2:], others.params["default"][2:])
    assert not torch.allclose(outputs.value[:2], others.value[:2])


@torch.no_grad()
def test_memory_remembers():
    network = cases.network_of("mlp-lstm-discrete")
    cases.scramble(network, seed=1)
    inputs = unroll_inputs(network, np.zeros((ROWS, SLOTS), bool))
    outputs = by_unroll(network, inputs)
    inputs["obs.default"][0] += 1
    assert not torch.allclose(outputs.value[-1], by_unroll(network, inputs).value[-1], atol=1e-6)


def test_masked_choices_have_probability_zero_and_no_gradient():
    network = cases.network_of("mlp-none-masked").requires_grad_(True)
    inputs = {name: torch.from_numpy(x) for name, x in cases.batch_of(network).items()}
    step = call(network, inputs)
    logits = torch.cat([step["dist.default"], step["dist.buttons"]], 1)
    mask = inputs["action_mask"]
    assert (logits[~mask] == -1e9).all()
    assert (logits[mask] > -100).all()
    logits.logsumexp(1).sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in network.parameters() if p.grad is not None)


@torch.no_grad()
def test_task_selects_the_value_and_not_the_policy():
    network = cases.network_of("tasks-none")
    cases.scramble(network, seed=1)
    batch = cases.batch_of(network)
    tasks = [
        cases.run_torch(network, batch | {"task": np.full(4, task, np.int32)}) for task in (0, 1)
    ]
    assert not np.allclose(tasks[0]["value"], tasks[1]["value"])
    np.testing.assert_array_equal(tasks[0]["dist.default"], tasks[1]["dist.default"])
    mixed = cases.run_torch(network, batch | {"task": np.array([0, 1, 0, 1], np.int32)})
    expected = np.where([True, False, True, False], tasks[0]["value"], tasks[1]["value"])
    np.testing.assert_array_equal(mixed["value"], expected)


def test_last_reward_is_clipped_and_last_action_one_hot():
    network = cases.network_of("last-none")
    cases.scramble(network, seed=1)
    batch = cases.batch_of(network)

    def values(reward, action):
        last = {
            "last_reward": np.full(4, reward, np.float32),
            "last_action.default": np.full(4, action),
        }
        return cases.run_torch(network, batch | last)["value"]

    np.testing.assert_array_equal(values(1, 0), values(100, 0))
    np.testing.assert_array_equal(values(-1, 0), values(-100, 0))
    assert not np.allclose(values(0.5, 0), values(1, 0))
    differences = values(0, 1) - values(0, 0), values(0, 2) - values(0, 1)
    assert not np.allclose(*differences)  # not one number per action, but one weight each


def test_separate_value_shares_nothing():
    network = cases.network_of("separate-lstm").requires_grad_(True)
    assert set(network.core_shapes) == {"h", "c", "value_h", "value_c"}
    inputs = {name: torch.from_numpy(x) for name, x in cases.batch_of(network).items()}
    call(network, inputs)["value"].sum().backward()
    touched = {name.split(".")[0] for name, p in network.named_parameters() if p.grad is not None}
    assert touched == {"value_trunk", "value_head"}


def test_heads_stay_in_float32_under_autocast():
    network = cases.network_of("dict-lstm")
    cases.scramble(network, seed=1)
    inputs = unroll_inputs(network, np.zeros((ROWS, SLOTS), bool))
    exact = by_unroll(network, inputs)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        rough = by_unroll(network, inputs)
    assert rough.value.dtype == torch.float32
    assert all(array.dtype == torch.float32 for array in rough.params.values())
    assert all(array.dtype == torch.float32 for array in rough.core_state.values())
    torch.testing.assert_close(rough.value, exact.value, rtol=0.1, atol=0.1)


@torch.no_grad()
def test_memory_fades_as_slowly_under_autocast():
    """A forget gate of 0.998 is 1 in bfloat16, and nothing would ever be forgotten."""
    core = LSTM(1, 1)
    for parameter in core.parameters():
        parameter.zero_()
    core.input.bias[1] = 6.1875  # a number that bfloat16 has
    x, reset = torch.zeros(300, 1, 1), torch.zeros(300, 1, dtype=torch.bool)
    start = State(torch.zeros(1, 1), torch.ones(1, 1))
    exact = core.unroll(x, start, reset)[1].c
    assert 0.4 < exact < 0.7
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(core.unroll(x, start, reset)[1].c, exact, rtol=1e-3, atol=0)


def test_equal_seeds_give_equal_networks():
    first, second = (cases.network_of("dict-lstm").state_dict() for _ in range(2))
    assert all(torch.equal(array, second[name]) for name, array in first.items())


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(1, 6), min_size=1, max_size=6), st.integers(0, 1000))
def test_normaliser_is_the_statistics_of_all_valid_rows(lengths, seed):
    network = cases.network_of("normalised-none")
    rng = np.random.default_rng(seed)
    seen = []
    for length in lengths:
        obs = rng.normal(50, 3, (length + 1, SLOTS, 5)).astype(np.float32)
        valid = rng.random((length, SLOTS)) < 0.7
        seen.append(obs[:-1][valid])
        network.keep_statistics(
            network.statistics_with({"default": torch.from_numpy(obs)}, torch.from_numpy(valid))
        )
    rows = np.concatenate(seen)
    statistics = network.normaliser.state_dict()
    assert statistics["count"] == len(rows)
    if len(rows):
        np.testing.assert_allclose(statistics["mean0"], rows.mean(0), rtol=1e-5)
        np.testing.assert_allclose(
            statistics["variance0"], rows.var(0, dtype=np.float64), rtol=1e-3, atol=1e-3
        )


def normaliser_after(*batches: np.ndarray) -> Normaliser:
    """Of one number, after batches [M, 1] of it."""
    normaliser = Normaliser((ArraySpec("default", "float32", (1,)),))
    for rows in batches:
        everything = torch.ones(len(rows), dtype=torch.bool)
        obs = {"default": torch.from_numpy(rows.astype(np.float32))}
        normaliser.load_state_dict(normaliser.merged(obs, everything))
    return normaliser


def standardised(normaliser: Normaliser, rows: np.ndarray) -> np.ndarray:
    out = normaliser({"default": torch.from_numpy(rows.astype(np.float32))})
    return out["default"].numpy()


@settings(deadline=None, max_examples=50)
@given(
    st.floats(1e-3, 1e4),
    st.floats(-100, 100),
    st.lists(st.floats(-MAX_FLOAT, MAX_FLOAT) | st.just(MAX_FLOAT), min_size=1, max_size=32),
    st.integers(0, 1000),
)
def test_numbers_that_do_not_belong_do_not_hide_the_others_for_ever(scale, offset, wild, seed):
    rng = np.random.default_rng(seed)

    def ordinary(count: int) -> np.ndarray:
        return scale * (offset + rng.standard_normal((count, 1)))

    spoiled = np.concatenate([ordinary(32), np.array(wild)[:, None]])
    batches = [ordinary(64) for _ in range(100)]
    normaliser = normaliser_after(ordinary(2000), spoiled, *batches)
    assert 0.1 < standardised(normaliser, ordinary(1000)).std() < 1.2


def test_what_really_changes_is_followed():
    rng = np.random.default_rng(0)
    constant = [np.zeros((500, 1))] * 20
    lively = [5 + rng.standard_normal((500, 1)) for _ in range(20)]
    normaliser = normaliser_after(*constant, *lively)
    rows = np.concatenate([*constant, *lively])
    # A few batches count for less than they were.
    np.testing.assert_allclose(normaliser.mean0, rows.mean(0), rtol=0.2)
    np.testing.assert_allclose(normaliser.variance0, rows.var(0), rtol=0.2)


def test_normaliser_believes_what_is_rare_but_not_absurd():
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((10_000, 1))
    rows[5_000] = 60
    normaliser = normaliser_after(*rows.reshape(20, 500, 1))
    np.testing.assert_allclose(normaliser.variance0, rows.var(0), rtol=1e-3)


def test_normaliser_leaves_integers_alone_and_clips():
    network = cases.network_of("dict-none")
    position = torch.full((2, 2, 3), 7.0, dtype=torch.float64)
    flags = torch.ones(2, 4, dtype=torch.int8)
    network.normaliser.mean0.fill_(1.0)
    network.normaliser.variance0.fill_(4.0)
    network.normaliser.variance0[0] = 1e-4
    out = network.normaliser({"position": position, "flags": flags})
    assert out["flags"] is flags
    assert out["position"].dtype == torch.float32
    torch.testing.assert_close(out["position"][:, 1], torch.full((2, 3), 3.0))
    torch.testing.assert_close(out["position"][:, 0], torch.full((2, 3), 10.0))


def test_update_without_normaliser_does_nothing():
    network = cases.network_of("mlp-none-discrete")
    obs = {"default": torch.ones(3, 2, 5)}
    network.keep_statistics(network.statistics_with(obs, torch.ones(2, 2, dtype=torch.bool)))
    assert network.normaliser is None


def test_two_policies_do_not_share_state():
    first = build(*cases.CASES["normalised-none"])
    second = build(*cases.CASES["normalised-none"])
    everything = torch.ones(4, 2, dtype=torch.bool)
    first.keep_statistics(first.statistics_with({"default": torch.randn(5, 2, 5)}, everything))
    assert second.normaliser.count == 0
