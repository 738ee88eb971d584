"""A trainer goes on from a checkpoint, or after an update that it skips, as if nothing had been."""

from pathlib import Path

import numpy as np
import pytest
import torch
from pronk_learner import checkpoint
from pronk_learner.trainer import Trainer
from unroll_samples import PLAIN, sample

from pronk.config import Experiment, parse
from pronk.nets.network import build
from pronk.rl.batch import Batch, SlotGroup, assemble
from pronk.wire.spec import ArraySpec, DiscreteSpec, EnvironmentSpec

SPEC = EnvironmentSpec(
    "Small-v0",
    (ArraySpec("default", "float32", (6, 6, 4), 0.0, 1.0),),
    (DiscreteSpec("default", (3,)),),
)


def trainer_of(experiment: Experiment) -> Trainer:
    torch.manual_seed(0)
    network = build(SPEC, experiment.network)
    return Trainer(network, SPEC, experiment.algorithm, experiment.learner)


def step(trainer: Trainer, seed: int) -> None:
    """An update by gradients that depend on nothing but the seed."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in trainer.network.parameters():
        gradient = torch.randn(parameter.shape, generator=generator)
        parameter.grad = torch.empty_like(parameter).copy_(gradient)
    trainer.optimizer.step()


@pytest.mark.parametrize("optimizer", ["{name: adam}", "{name: rmsprop, momentum: 0.5}"])
@pytest.mark.parametrize("network", ["{id: minatar}", "{id: mlp, core: lstm}"])
def test_a_restored_trainer_goes_on_bit_by_bit(
    tmp_path: Path, network: str, optimizer: str
) -> None:
    experiment = parse(
        "name: x\nenv: {id: Small-v0}\n"
        f"network: {network}\nalgorithm: {{optimizer: {optimizer}}}\n"
    )
    straight = trainer_of(experiment)
    for seed in range(3):
        step(straight, seed)
    saved = checkpoint.Checkpoint(
        epoch=1,
        weights=straight.weights(),
        optimizer=straight.optimizer_state(),
        counters=checkpoint.Counters(),
        experiment_hash="hash",
        experiment="",
        rng=[],
        trained={},
    )
    checkpoint.save(tmp_path, saved, keep=1)
    loaded = checkpoint.newest(tmp_path)
    assert loaded is not None

    resumed = trainer_of(experiment)
    resumed.restore(loaded.weights, loaded.optimizer)
    for seed in range(3, 6):
        step(straight, seed)
        step(resumed, seed)

    for name, value in straight.weights().items():
        assert torch.equal(resumed.weights()[name], value), name


def batch_of(seed: int, *, observation: float = 0.0, reward: float = 0.0) -> Batch:
    """Random rows, unchecked; the numbers given are added to all of one slot's."""
    unroll = sample(PLAIN, rows=5, slots=4, seed=seed)
    unroll.obs["default"][:, 0] += np.float32(observation)
    unroll.reward[:, 0] += np.float32(reward)
    return assemble([SlotGroup(unroll, 0, 4)])


@pytest.mark.parametrize("spoiled", [{"observation": 3e38}, {"reward": 3e38}])
def test_an_update_that_is_skipped_leaves_no_trace(spoiled: dict[str, float]) -> None:
    experiment = parse(
        "name: x\nenv: {id: CartPole-v1}\nalgorithm: {optimizer: {name: adam}}\n"
        "network: {normalise_observations: true, kwargs: {hidden: [8]}}\n"
    )
    torch.manual_seed(0)
    network = build(PLAIN, experiment.network)
    trainer = Trainer(network, PLAIN, experiment.algorithm, experiment.learner)
    assert trainer.update(batch_of(0), 0).applied
    before = trainer.weights() | trainer.optimizer_state()

    assert not trainer.update(batch_of(1, **spoiled), 0).applied

    after = trainer.weights() | trainer.optimizer_state()
    assert before.keys() == after.keys()
    for name, value in before.items():
        assert torch.equal(after[name], value), name
    for seed in range(2, 6):
        assert trainer.update(batch_of(seed), 0).applied
