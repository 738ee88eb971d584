"""IMPALA's loss against a reference in plain loops, and its gradient against the paper's."""

from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from rl_batches import ACTIONS, ends_to_rows, random_batch

from pronk.config.schema import AlgorithmConfig
from pronk.rl.loss import Loss, impala_loss
from pronk.wire.spec import ContinuousSpec, DiscreteSpec

SETTINGS = {
    "discount": 0.9,
    "lambda": 0.95,
    "rho_bar": 1.2,
    "rho_pg_bar": 1.6,
    "c_bar": 0.8,
    "entropy_cost": 0.05,
    "value_cost": 0.4,
}
CONFIG = AlgorithmConfig.model_validate(SETTINGS)


@pytest.fixture
def sample():
    """Two slots of 8 rows: one is cut off in the middle, one terminates; params and values."""
    ends = (["", "", "cut", "", "", "", "", ""], ["", "", "", "", "over", "", "", "cut"])
    flags = ends_to_rows(ends, (True, True))
    return random_batch(np.random.default_rng(4), *flags)


def reference(batch, params, values):
    """The loss's parts by loops over slots and rows, and the gradient that the paper gives.

    Returns policy, value and entropy parts, and the gradients of the total w.r.t. logits, values.
    """
    logits, v = params["action"].detach().numpy(), values.detach().numpy()
    action, reward = batch.action["action"].numpy(), batch.reward.numpy()
    behaviour, valid = batch.behaviour_log_prob.numpy(), batch.valid.numpy()
    terminated = batch.terminated.numpy()
    length, slots = reward.shape
    log_pi = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    pi = np.exp(log_pi)
    policy = value = entropy = 0.0
    d_logits, d_values = np.zeros_like(logits), np.zeros_like(v)
    for b in range(slots):
        target_after = v[length, b]
        for t in reversed(range(length)):
            if not valid[t, b]:
                target_after = v[t, b]
                continue
            ratio = np.exp(log_pi[t, b, action[t, b]] - behaviour[t, b])
            gamma = 0.0 if terminated[t, b] else 0.9
            delta = min(1.2, ratio) * (reward[t, b] + gamma * v[t + 1, b] - v[t, b])
            trace = 0.95 * min(0.8, ratio)
            target = v[t, b] + delta + gamma * trace * (target_after - v[t + 1, b])
            advantage = min(1.6, ratio) * (reward[t, b] + gamma * target_after - v[t, b])
            h = -(pi[t, b] * log_pi[t, b]).sum()
            policy -= advantage * log_pi[t, b, action[t, b]]
            value += 0.5 * (target - v[t, b]) ** 2
            entropy += h
            d_logits[t, b] = advantage * (pi[t, b] - np.eye(3)[action[t, b]])
            d_logits[t, b] += 0.05 * pi[t, b] * (log_pi[t, b] + h)
            d_values[t, b] = -0.4 * (target - v[t, b])
            target_after = target
    return policy, value, entropy, d_logits, d_values


def test_equals_the_reference(sample):
    batch, params, values = sample
    policy, value, entropy, *_ = reference(batch, params, values)

    loss = impala_loss(ACTIONS, CONFIG, params, values, batch)

    np.testing.assert_allclose(loss.policy, policy, rtol=1e-10)
    np.testing.assert_allclose(loss.value, value, rtol=1e-10)
    np.testing.assert_allclose(loss.entropy, entropy, rtol=1e-10)
    total = policy + 0.4 * value - 0.05 * entropy
    np.testing.assert_allclose(loss.total.detach(), total, rtol=1e-10)


def test_gradient_is_the_papers(sample):
    """Targets, advantages and weights are constants; the bootstrap row gets no gradient."""
    batch, params, values = sample
    *_, d_logits, d_values = reference(batch, params, values)

    impala_loss(ACTIONS, CONFIG, params, values, batch).total.backward()

    np.testing.assert_allclose(params["action"].grad, d_logits, atol=1e-10)
    np.testing.assert_allclose(values.grad, d_values, atol=1e-10)


def test_only_the_total_carries_a_gradient(sample):
    batch, params, values = sample
    loss = impala_loss(ACTIONS, CONFIG, params, values, batch)

    tensors = {f.name: getattr(loss, f.name) for f in fields(Loss) if f.name != "rho_bar"}

    assert [name for name, tensor in tensors.items() if tensor.requires_grad] == ["total"]


def test_is_a_sum_over_slots(sample):
    batch, params, values = sample
    once = impala_loss(ACTIONS, CONFIG, params, values, batch)
    twice = replace(
        batch,
        action={"action": torch.cat([batch.action["action"]] * 2, 1)},
        **{
            name: torch.cat([getattr(batch, name)] * 2, 1)
            for name in ("behaviour_log_prob", "reward", "terminated", "truncated", "valid")
        },
    )
    doubled = {"action": torch.cat([params["action"]] * 2, 1)}

    loss = impala_loss(ACTIONS, CONFIG, doubled, torch.cat([values] * 2, 1), twice)

    for name in ("total", "policy", "value", "entropy", "steps"):
        torch.testing.assert_close(getattr(loss, name), 2 * getattr(once, name))
    torch.testing.assert_close(loss.rho_mean, once.rho_mean)


def test_reports_weights_of_valid_rows(sample):
    batch, params, values = sample
    logits = params["action"].detach()[:-1]
    log_pi = logits.log_softmax(-1).gather(-1, batch.action["action"][..., None])[..., 0]
    ratios = (log_pi - batch.behaviour_log_prob).exp()[batch.valid]

    loss = impala_loss(ACTIONS, CONFIG, params, values, batch)

    torch.testing.assert_close(loss.rho_mean, ratios.mean())
    assert 0 < float(loss.rho_clipped_share) == float((ratios > 1.2).float().mean()) < 1
    assert int(loss.steps) == len(ratios) == 14


def test_the_policy_that_acted_has_weight_one_and_nothing_is_clipped(sample):
    batch, params, values = sample
    params = {"action": params["action"].float()}
    log_pi = params["action"].detach()[:-1].log_softmax(-1)
    acted = log_pi.gather(-1, batch.action["action"][..., None])[..., 0]
    # Rounding of another implementation, to both sides of 1.
    noise = torch.tensor([-1e-6, 1e-6]).expand(8, 2)
    batch = replace(batch, behaviour_log_prob=acted + noise, reward=batch.reward.float())
    config = AlgorithmConfig()

    loss = impala_loss(ACTIONS, config, params, values.float(), batch)

    torch.testing.assert_close(loss.rho_mean, torch.tensor(1.0), atol=1e-5, rtol=0)
    assert float(loss.rho_clipped_share) == 0.0


def test_rewards_are_transformed(sample):
    batch, params, values = sample
    batch = replace(batch, reward=3.0 * batch.reward)
    settings = SETTINGS | {"reward": {"transform": "clip", "scale": 2.0}}
    config = AlgorithmConfig.model_validate(settings)
    clipped = replace(batch, reward=(2.0 * batch.reward).clamp(-1, 1))

    loss = impala_loss(ACTIONS, config, params, values, batch)

    expected = impala_loss(ACTIONS, CONFIG, params, values, clipped)
    torch.testing.assert_close(loss.total, expected.total)


def test_a_batch_of_dead_rows_weighs_nothing():
    flags = [np.zeros((1, 2), bool)] * 3
    batch, params, values = random_batch(np.random.default_rng(0), *flags)

    loss = impala_loss(ACTIONS, CONFIG, params, values, batch)

    assert (
        float(loss.total.detach()) == float(loss.rho_mean) == float(loss.rho_clipped_share) == 0.0
    )


def test_joins_named_actions(sample):
    """The weight of a row is that of all its actions together."""
    batch, params, values = sample
    gears = DiscreteSpec("gear", (2, 4), scalar=False)
    actions = (*ACTIONS, gears, ContinuousSpec("aim", (), (), ()))
    gear = torch.from_numpy(np.random.default_rng(9).integers(0, 2, (8, 2, 2)))
    batch = replace(batch, action=batch.action | {"gear": gear, "aim": torch.randn(8, 2).double()})
    params |= {"gear": torch.randn(9, 2, 6).double(), "aim": torch.randn(9, 2, 2).double()}
    no_log_prob = replace(batch, behaviour_log_prob=torch.zeros(8, 2).double())

    joint = impala_loss(actions, CONFIG, params, values, batch).rhos

    alone = [impala_loss((spec,), CONFIG, params, values, no_log_prob).rhos for spec in actions]
    expected = alone[0] * alone[1] * alone[2] * (-batch.behaviour_log_prob).exp()
    torch.testing.assert_close(joint[batch.valid], expected[batch.valid])


def test_reads_nothing_back_from_the_device(sample):
    """Tensors without data refuse every look at a value, as a GPU would have to be waited for."""
    batch, params, values = sample
    nowhere = torch.device("meta")
    params = {name: value.detach().to(nowhere) for name, value in params.items()}
    values = values.detach().to(nowhere).requires_grad_()

    loss = impala_loss(ACTIONS, CONFIG, params, values, batch.to(nowhere))
    loss.total.backward()

    for name in ("total", "policy", "value", "entropy", "rho_mean", "rho_clipped_share", "steps"):
        assert getattr(loss, name).shape == ()
