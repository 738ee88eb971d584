"""Distributions against enumeration, integration and torch's own."""

import itertools

import numpy as np
import pytest
import torch
from torch.distributions import Categorical, Independent, Normal

from pronk.rl.distributions import Joint
from pronk.wire.spec import ContinuousSpec, DiscreteSpec

ONE = DiscreteSpec("one", (4,))
COLUMN = DiscreteSpec("column", (3,), scalar=False)
MANY = DiscreteSpec("many", (2, 3, 4), scalar=False)
BOX = ContinuousSpec("box", (2, 2), (-1.0,) * 4, (1.0,) * 4)
NUMBER = ContinuousSpec("number", (), (-1.0,), (1.0,))


def random_params(spec, *leading, dtype=torch.float64):
    generator = torch.Generator().manual_seed(spec.parameters)
    return torch.randn(*leading, spec.parameters, generator=generator, dtype=dtype)


@pytest.mark.parametrize("spec", [ONE, COLUMN, MANY])
def test_discrete_probabilities_by_enumeration(spec):
    params = {spec.name: random_params(spec)}
    alternatives = torch.tensor(list(itertools.product(*map(range, spec.choices))))
    if spec.scalar:
        alternatives = alternatives[:, 0]
    rows = {spec.name: params[spec.name].expand(len(alternatives), -1)}

    log_prob = Joint((spec,), rows).log_prob({spec.name: alternatives})

    torch.testing.assert_close(log_prob.exp().sum(), torch.tensor(1.0).double())
    entropy = -(log_prob.exp() * log_prob).sum()
    torch.testing.assert_close(Joint((spec,), params).entropy(), entropy)


def test_choices_take_their_own_logits():
    """Choice i reads block i of the logits: 2, then 3, then 4 of them."""
    logits = torch.log(torch.tensor([0.9, 0.1, 0.2, 0.3, 0.5, 0.05, 0.15, 0.2, 0.6]))

    log_prob = Joint((MANY,), {"many": logits}).log_prob({"many": torch.tensor([1, 2, 3])})

    torch.testing.assert_close(log_prob.exp(), torch.tensor(0.1 * 0.5 * 0.6))


def test_one_choice_is_torchs_categorical():
    params = random_params(ONE, 5, 3)
    action = torch.randint(0, 4, (5, 3))
    theirs = Categorical(logits=params)

    log_prob = Joint((ONE,), {"one": params}).log_prob({"one": action})

    torch.testing.assert_close(log_prob, theirs.log_prob(action))
    torch.testing.assert_close(Joint((ONE,), {"one": params}).entropy(), theirs.entropy())


@pytest.mark.parametrize("spec", [BOX, NUMBER])
def test_gaussian_is_torchs(spec):
    params = random_params(spec, 5, 3)
    mean, log_std = params[..., : spec.size], params[..., spec.size :]
    action = torch.randn(5, 3, *spec.shape).double()
    theirs = Independent(Normal(mean, log_std.exp()), 1)

    log_prob = Joint((spec,), {spec.name: params}).log_prob({spec.name: action})

    torch.testing.assert_close(log_prob, theirs.log_prob(action.reshape(5, 3, -1)))
    entropy = Joint((spec,), {spec.name: params}).entropy()
    torch.testing.assert_close(entropy, theirs.entropy())


def test_gaussian_density_integrates_to_one():
    grid = torch.linspace(-20, 20, 4001, dtype=torch.float64)
    params = torch.tensor([0.7, -0.4]).double().expand(4001, 2)

    log_prob = Joint((NUMBER,), {"number": params}).log_prob({"number": grid})

    area = log_prob.exp().sum() * (grid[1] - grid[0])
    torch.testing.assert_close(area, torch.tensor(1.0).double(), rtol=1e-6, atol=0)


def test_actions_are_independent():
    specs = (ONE, MANY, BOX, NUMBER)
    params = {spec.name: random_params(spec, 6) for spec in specs}
    action = {
        "one": torch.randint(0, 4, (6,)),
        "many": torch.stack([torch.randint(0, c, (6,)) for c in MANY.choices], -1),
        "box": torch.randn(6, 2, 2).double(),
        "number": torch.randn(6).double(),
    }

    joint = Joint(specs, params)

    apart = [Joint((spec,), params) for spec in specs]
    torch.testing.assert_close(joint.log_prob(action), sum(p.log_prob(action) for p in apart))
    torch.testing.assert_close(joint.entropy(), sum(p.entropy() for p in apart))


def test_masked_choices_have_no_probability_entropy_or_gradient():
    """Inside the graph a masked choice's logit is -1e9."""
    params = torch.tensor([[0.3, -1e9, -0.2, -1e9]], requires_grad=True)
    allowed = torch.tensor([[0.3, -0.2]])

    joint = Joint((ONE,), {"one": params})
    log_prob, entropy = joint.log_prob({"one": torch.tensor([2])}), joint.entropy()
    (log_prob + entropy).sum().backward()

    torch.testing.assert_close(log_prob, allowed.log_softmax(-1)[:, 1])
    torch.testing.assert_close(entropy, Categorical(logits=allowed).entropy())
    assert torch.isfinite(params.grad).all()
    np.testing.assert_array_equal(params.grad[0, [1, 3]], [0, 0])


def test_large_logits_stay_finite():
    params = torch.tensor([1e4, -1e4, 0.0, 0.0])

    assert Joint((ONE,), {"one": params}).log_prob({"one": torch.tensor(0)}) == 0.0
    assert Joint((ONE,), {"one": params}).entropy() == 0.0
