"""The policy that acted and the policy that is trained are one: ρ = 1.

Real actor → codec → buffer → ingest → batcher → trainer with equal weights. An input that one side
feeds otherwise than the other (a state that was not reset, a stale last action, a mask, a shifted
row) moves ρ. What only the value depends on (the task) moves the value, which is compared at every
row as well.
"""

from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import numpy as np
import pytest
import torch
from pronk_actor.agent import Agent, ReadyPolicy
from pronk_actor.player import Player, Seat
from pronk_actor.sender import Sender
from pronk_learner.batcher import Batcher, Draw
from pronk_learner.ingest import Ingest
from pronk_learner.trainer import Trainer
from valkeys import EmbeddedValkey

from pronk.config.schema import AlgorithmConfig, LearnerConfig, NetworkConfig
from pronk.envs.slots import Arrays, Observation, StepResult
from pronk.nets.network import build
from pronk.policy.engine import Engine, open_engine
from pronk.policy.export import Exporter
from pronk.policy.signature import VALUE
from pronk.rl.batch import SlotGroup, assemble
from pronk.rl.distributions import Joint
from pronk.transport.buffer import BufferKeys, Consumer, Producer
from pronk.transport.heart import Heart
from pronk.transport.redis import connect
from pronk.wire.spec import ArraySpec, ContinuousSpec, DiscreteSpec, EnvironmentSpec
from pronk.wire.unroll import UnrollHeader
from pronk.wire.validate import Expectation

LENGTH = 6
SLOTS = 3 * (LENGTH + 2)
UNROLLS = 3
BATCH = 18  # not what an unroll holds: batches mix slots of two

VECTOR = (ArraySpec("default", "float32", (3,)),)
DISCRETE = (DiscreteSpec("default", (4,)),)
CASES = {
    "mlp": (EnvironmentSpec("toy", VECTOR, DISCRETE), {}),
    "lstm": (EnvironmentSpec("toy", VECTOR, DISCRETE), {"core": "lstm"}),
    "last action and reward": (
        EnvironmentSpec("toy", VECTOR, DISCRETE),
        {"core": "lstm", "last_action": True, "last_reward": True},
    ),
    "last action without a core": (
        EnvironmentSpec("toy", VECTOR, DISCRETE),
        {"last_action": True, "last_reward": True},
    ),
    "action mask": (EnvironmentSpec("toy", VECTOR, DISCRETE, action_mask=True), {"core": "lstm"}),
    "two tasks": (
        EnvironmentSpec("toy", VECTOR, DISCRETE, tasks=("a", "b")),
        {"core": "lstm", "last_action": True},
    ),
    "gaussian": (
        EnvironmentSpec("toy", VECTOR, (ContinuousSpec("default", (2,), (-1.0,) * 2, (1.0,) * 2),)),
        {"core": "lstm", "last_action": True, "normalise_observations": True},
    ),
    "dict observation": (
        EnvironmentSpec(
            "toy",
            (
                ArraySpec("image", "uint8", (10, 10, 2), 0, 9),
                ArraySpec("velocity", "float32", (3,)),
                ArraySpec("direction", "int64", (), 0, 3),
            ),
            (DiscreteSpec("move", (3,)), DiscreteSpec("hands", (2, 3), scalar=False)),
        ),
        {"id": "minatar", "core": "lstm", "last_action": True, "separate_value": True},
    ),
}


class Scripted:
    """Random observations; slot s's episodes take s // 3 + 1 steps, so that over the slots a reset
    stands at every row; by turns slots terminate, truncate, and fail in the step after."""

    def __init__(self, spec: EnvironmentSpec, seed: int) -> None:
        self.spec = spec
        self.slots = SLOTS
        self._rng = np.random.default_rng(seed)
        self._lengths = np.arange(SLOTS) // 3 + 1
        self._steps = np.zeros(SLOTS, np.int64)
        self._dead = np.zeros(SLOTS, np.bool_)

    def reset(self) -> Observation:
        return Observation(self._look(), self._mask())

    def step(self, action: Arrays) -> StepResult:
        self._steps = np.where(self._dead, 0, self._steps + 1)
        ended = ~self._dead & (self._steps == self._lengths)
        reward = np.where(self._dead, 0, self._rng.normal(size=SLOTS)).astype(np.float32)
        terminates, truncates, fails = np.arange(SLOTS) % 3 == np.arange(3)[:, None]
        failed = self._dead & fails
        self._dead = ended
        return StepResult(
            self._look(), reward, ended & terminates, ended & truncates, self._mask(), failed
        )

    def close(self) -> None:
        pass

    def _look(self) -> Arrays:
        return {spec.name: self._draw(spec) for spec in self.spec.observation}

    def _draw(self, spec: ArraySpec) -> np.ndarray:
        shape = (SLOTS, *spec.shape)
        if np.dtype(spec.dtype).kind == "f":
            return self._rng.normal(size=shape).astype(spec.dtype)
        return self._rng.integers(int(spec.low), int(spec.high) + 1, shape).astype(spec.dtype)

    def _mask(self) -> np.ndarray | None:
        if not self.spec.action_mask:
            return None
        mask = self._rng.random((SLOTS, self.spec.mask_size)) < 0.5
        mask[:, 0] = True
        return mask


@pytest.fixture(scope="module")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedValkey]:
    folder: Path = tmp_path_factory.mktemp("valkey")
    with EmbeddedValkey(folder) as server:
        yield server


class Witness:
    """An engine that remembers the values it computed, step by step."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.values: list[np.ndarray] = []

    def step(self, inputs: Arrays) -> Arrays:
        outputs = self._engine.step(inputs)
        self.values.append(np.copy(outputs[VALUE]))
        return outputs


def play(case: str, url: str) -> tuple[list[Draw], Trainer, torch.Tensor]:
    """What a learner of equal weights draws of consecutive unrolls, its trainer, and the values
    [rows of all unrolls, slots] that the actor computed."""
    spec, options = CASES[case]
    torch.manual_seed(0)
    config = NetworkConfig.model_validate({"kwargs": {}, "core_size": 8, **options})
    network = build(spec, config)
    with torch.no_grad():  # away from the near-uniform start, so that every input matters
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
        for buffer in network.buffers():
            if buffer.is_floating_point():  # statistics of a normaliser; variances stay positive
                buffer.add_(torch.rand_like(buffer) + 0.5)
    bundle = Exporter(network, "default").bundle(network.state_dict(), epoch=1, number=1, frames=0)
    witness = Witness(open_engine(bundle))
    agent = Agent(spec, SLOTS, ReadyPolicy(witness, bundle.manifest), np.random.default_rng(1))
    agent.task[:] = np.arange(SLOTS) % len(spec.tasks)
    player = Player(spec, Seat("default", range(SLOTS), LENGTH), agent)
    env = Scripted(spec, seed=2)
    client = connect(url)
    keys = BufferKeys(uuid4().hex, "default")
    consumer = Consumer(client, keys, "epoch-1-rank-0")
    assert consumer.read(1, 0) == []  # actors wait for a learner
    sender = Sender(Producer(client, keys, 64, 1 << 24), "default", Heart(), lambda: None)
    player.restart(env.reset())
    for number in range(1, UNROLLS + 1):
        for _ in range(LENGTH):
            player.record(env.step(player.act()))
        header = UnrollHeader("hash", "run", "default", "train-000000000001", number)
        unroll, _ = player.finish(header)
        assert sender.offer(unroll, 5)
    assert sender.close(5) == 0
    expectation = Expectation("run", "hash", "default", spec, LENGTH, network.core_shapes)
    draws, batcher = [], Batcher(BATCH)
    with Ingest(consumer, expectation, UNROLLS, Heart()) as ingest:
        for _ in range(UNROLLS):
            received = ingest.get(timeout=5)
            assert received is not None
            batcher.add(*received)
            while draw := batcher.draw():
                draws.append(draw)
                consumer.ack(list(draw.finished))
    assert batcher.slots == ingest.refused == client.xlen(keys.stream) == 0
    trainer = Trainer(network, spec, AlgorithmConfig(), LearnerConfig(device="cpu"))
    return draws, trainer, torch.from_numpy(np.stack(witness.values))


def acted(values: torch.Tensor, group: SlotGroup) -> torch.Tensor:
    """The actor's values [rows, slots] at what is in the group.

    The last observation is row 0 of the next unroll: its value counts too, if there is a next one.
    """
    start = (group.unroll.header.sequence - 1) * LENGTH
    return values[start : start + LENGTH + 1, group.start : group.stop]


@pytest.mark.parametrize("case", CASES)
def test_equal_weights_give_rho_one(case: str, valkey: EmbeddedValkey) -> None:
    draws, trainer, values = play(case, valkey.url)
    assert len(draws) == UNROLLS * SLOTS / BATCH
    assert max(len(draw.groups) for draw in draws) == 2
    spec = CASES[case][0]
    resets = torch.zeros(LENGTH, 3, dtype=torch.bool)
    for draw in draws:
        batch = assemble(draw.groups)
        with torch.no_grad():
            rows = trainer.network.unroll(
                batch.obs,
                batch.core_state,
                batch.last_action,
                batch.last_reward,
                batch.reset,
                batch.task,
                batch.action_mask,
            )
        params = {name: value[:-1] for name, value in rows.params.items()}
        log_rho = Joint(spec.action, params).log_prob(batch.action) - batch.behaviour_log_prob
        assert log_rho.exp()[batch.valid].sub(1).abs().max() <= 1e-5
        sizes = [group.stop - group.start for group in draw.groups]
        for group, value in zip(draw.groups, rows.value.split(sizes, dim=1), strict=True):
            expected = acted(values, group)
            assert (value[: len(expected)] - expected).abs().max() <= 1e-5
        loss = trainer.loss(batch)
        assert float(loss.rho_mean) == pytest.approx(1.0, abs=1e-5)
        resets |= batch.reset[:LENGTH].unflatten(1, (-1, 3)).any(1)
    assert resets.all(), "the table needs a reset of every kind at every row"


def test_other_weights_do_not(valkey: EmbeddedValkey) -> None:
    draws, trainer, _ = play("mlp", valkey.url)
    with torch.no_grad():
        next(trainer.network.policy_heads.parameters()).add_(0.01)
        next(trainer.network.trunk.parameters()).add_(0.01)
    assert abs(float(trainer.loss(assemble(draws[0].groups)).rho_mean.detach()) - 1) > 1e-5
