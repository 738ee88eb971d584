"""RMSProp against a plain loop and a closed form; what an experiment builds."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from pronk.config.schema import OptimizerConfig
from pronk.rl import optim


def plain_rmsprop(theta, gradients, rates, decay, epsilon, momentum):
    """TensorFlow 1's update, element by element, in float64."""
    square, moment = np.ones_like(theta), np.zeros_like(theta)
    for gradient, rate in zip(gradients, rates, strict=True):
        square = decay * square + (1 - decay) * gradient**2
        moment = momentum * moment + rate * gradient / np.sqrt(square + epsilon)
        theta = theta - moment
    return theta


def parameters(shapes=((3, 2), (4,), ())):
    rng = np.random.default_rng(0)
    return [torch.nn.Parameter(torch.from_numpy(rng.normal(size=shape))) for shape in shapes]


def gradients(step, params):
    rng = np.random.default_rng([1, step])
    return [torch.from_numpy(rng.normal(0, 3, param.shape)) for param in params]


def take_steps(optimizer, params, steps):
    for step in steps:
        for param, gradient in zip(params, gradients(step, params), strict=True):
            param.grad = gradient
        optimizer.step()


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_rmsprop_is_the_plain_loop(momentum):
    """The learning rate falls meanwhile: it scales what enters the momentum, not what leaves it."""
    params = parameters()
    before = [param.detach().clone().numpy() for param in params]
    optimizer = optim.RMSProp(params, lr=0.0, decay=0.9, epsilon=0.1, momentum=momentum)
    rates = [0.3, 0.2, 0.1, 0.05]

    for step, rate in enumerate(rates):
        optimizer.param_groups[0]["lr"] = rate
        take_steps(optimizer, params, [step])

    for i, param in enumerate(params):
        history = [gradients(step, params)[i].numpy() for step in range(4)]
        expected = plain_rmsprop(before[i], history, rates, 0.9, 0.1, momentum)
        np.testing.assert_allclose(param.detach(), expected, rtol=1e-12, atol=1e-12)


def test_rmsprop_closed_form():
    """A constant gradient g: s_n = g² + (1 − g²)·dⁿ, so θ moves by lr·g / √(s_n + ε)."""
    theta = torch.nn.Parameter(torch.zeros((), dtype=torch.float64))
    optimizer = optim.RMSProp([theta], lr=0.01, decay=0.99, epsilon=0.01)
    g, n = 3.0, np.arange(1, 51)

    for _ in n:
        theta.grad = torch.tensor(g, dtype=torch.float64)
        optimizer.step()

    expected = -np.sum(0.01 * g / np.sqrt(g**2 + (1 - g**2) * 0.99**n + 0.01))
    np.testing.assert_allclose(theta.detach(), expected, rtol=1e-12)


def test_rmsprop_leaves_parameters_without_gradient_alone():
    first, second = parameters(((2,), (2,)))
    before = second.detach().clone()
    first.grad = torch.ones_like(first)

    optimizer = optim.RMSProp([first, second], lr=0.1)
    optimizer.step()

    torch.testing.assert_close(second, before, rtol=0, atol=0)
    assert second not in optimizer.state


def test_rmsprop_without_any_gradient_does_nothing():
    params = parameters()

    optim.RMSProp(params, lr=0.1).step()

    for param, before in zip(params, parameters(), strict=True):
        torch.testing.assert_close(param, before, rtol=0, atol=0)


def test_rmsprop_refuses_a_closure():
    with pytest.raises(ValueError, match="closure"):
        optim.RMSProp(parameters(), lr=0.1).step(lambda: 0.0)


@pytest.mark.parametrize(
    "config",
    [
        OptimizerConfig(learning_rate=0.1),
        OptimizerConfig(learning_rate=0.1, momentum=0.9),
        OptimizerConfig(name="adam", learning_rate=0.1),
    ],
)
def test_a_restored_optimizer_goes_on_bit_by_bit(config):
    straight, interrupted = parameters(), parameters()
    take_steps(optim.build(straight, config), straight, range(6))
    first = optim.build(interrupted, config)
    take_steps(first, interrupted, range(3))

    second = optim.build(interrupted, config)
    second.load_state_dict(first.state_dict())
    take_steps(second, interrupted, range(3, 6))

    for a, b in zip(straight, interrupted, strict=True):
        assert torch.equal(a, b)
    assert all(
        isinstance(value, torch.Tensor)
        for state in second.state_dict()["state"].values()
        for value in state.values()
    ), "checkpoints hold tensors only"


def test_build_takes_every_setting():
    config = OptimizerConfig(learning_rate=0.3, decay=0.8, epsilon=0.2, momentum=0.7)
    rmsprop = optim.build(parameters(), config)
    adam = optim.build(parameters(), OptimizerConfig(name="adam", learning_rate=0.3, epsilon=1e-5))

    settings = {key: rmsprop.param_groups[0][key] for key in ("lr", "decay", "epsilon", "momentum")}
    assert isinstance(rmsprop, optim.RMSProp)
    assert settings == {"lr": 0.3, "decay": 0.8, "epsilon": 0.2, "momentum": 0.7}
    assert isinstance(adam, torch.optim.Adam)
    assert adam.param_groups[0]["lr"] == 0.3
    assert adam.param_groups[0]["eps"] == 1e-5
    assert adam.param_groups[0]["betas"] == (0.9, 0.999)


@pytest.mark.parametrize(
    ("decay_frames", "frames", "expected"),
    [
        (None, 0, 0.6),
        (None, 10**12, 0.6),
        (1000, 0, 0.6),
        (1000, 250, 0.45),
        (1000, 1000, 0.0),
        (1000, 5000, 0.0),
    ],
)
def test_learning_rate(decay_frames, frames, expected):
    config = OptimizerConfig(learning_rate=0.6, decay_frames=decay_frames)

    assert optim.learning_rate(config, frames) == pytest.approx(expected)


@pytest.mark.parametrize("name", ["rmsprop", "adam"])
def test_training_does_not_wait_for_the_compilers_import(name):
    code = f"""
import sys, torch
from pronk.config.schema import OptimizerConfig
from pronk.rl import optim
weight = torch.nn.Parameter(torch.ones(3))
optimizer = optim.build([weight], OptimizerConfig(name={name!r}))
weight.grad = torch.ones(3)
optimizer.step()
optimizer.load_state_dict(optimizer.state_dict())
optimizer.zero_grad()
assert weight[0] < 1 and "torch._dynamo" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_adam_is_torchs():
    ours, theirs = parameters(), parameters()
    config = OptimizerConfig(name="adam", learning_rate=0.1, epsilon=1e-5)
    take_steps(optim.build(ours, config), ours, range(5))
    take_steps(torch.optim.Adam(theirs, 0.1, eps=1e-5), theirs, range(5))
    torch.testing.assert_close(ours, theirs)
