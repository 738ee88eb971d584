"""A trainer goes on from a checkpoint as if nothing had happened."""

from pathlib import Path

import pytest
import torch
from pronk_learner import checkpoint
from pronk_learner.trainer import Trainer

from pronk.config import Experiment, parse
from pronk.nets.network import build
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
