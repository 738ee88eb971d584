"""The policy that acted and the policy that is trained are one: ρ = 1.

Real actor → codec → buffer → learner with equal weights. An input that one side feeds otherwise
than the other (a state that was not reset, a stale last action, a mask, a shifted row) moves ρ.
What only the value depends on (the task) moves the value, which is compared at every row as well.
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
from pronk_learner.trainer import Trainer
from valkeys import EmbeddedValkey

from pronk.config.schema import AlgorithmConfig, LearnerConfig, NetworkConfig
from pronk.envs.slots import Arrays, Observation, StepResult
from pronk.nets.network import build
from pronk.policy.engine import Engine, open_engine
from pronk.policy.export import Exporter
from pronk.policy.signature import VALUE
from pronk.rl.batch import Batch, SlotGroup, assemble
from pronk.rl.distributions import Joint
from pronk.transport.buffer import BufferKeys, Consumer, Producer
from pronk.transport.heart import Heart
from pronk.transport.redis import connect
from pronk.wire import codec
from pronk.wire.spec import ArraySpec, ContinuousSpec, DiscreteSpec, EnvironmentSpec
from pronk.wire.unroll import UnrollHeader
from pronk.wire.validate import Expectation, check

LENGTH = 6
SLOTS = 3 * (LENGTH + 2)
UNROLLS = 4

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


def play(case: str, url: str) -> tuple[list[Batch], Trainer, torch.Tensor]:
    """Batches of consecutive unrolls as the learner sees them, a learner of equal weights, and the
    values [rows of all unrolls, B] that the actor computed for the same slots."""
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
    for _ in range(UNROLLS):
        for _ in range(LENGTH):
            player.record(env.step(player.act()))
        unroll, _ = player.finish(UnrollHeader("hash", "run", "default", "train-000000000001", 1))
        assert sender.offer(unroll, 5)
    assert sender.close(5) == 0
    expectation = Expectation("run", "hash", "default", spec, LENGTH, network.core_shapes)
    batches = []
    while len(batches) < UNROLLS:
        for entry in consumer.read(8, 100):
            received = codec.decode(entry.payload)
            check(received, expectation)
            batches.append(assemble([SlotGroup(received, 3, SLOTS), SlotGroup(received, 0, 3)]))
            consumer.ack([entry.id])
    trainer = Trainer(network, spec, AlgorithmConfig(), LearnerConfig(device="cpu"))
    return batches, trainer, torch.from_numpy(np.roll(np.stack(witness.values), -3, axis=1))


@pytest.mark.parametrize("case", CASES)
def test_equal_weights_give_rho_one(case: str, valkey: EmbeddedValkey) -> None:
    batches, trainer, values = play(case, valkey.url)
    spec = CASES[case][0]
    resets = torch.zeros(LENGTH, 3, dtype=torch.bool)
    for index, batch in enumerate(batches):
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
        # The last observation is row 0 of the next unroll: its value counts too.
        acted = values[index * LENGTH : (index + 1) * LENGTH + 1]
        assert (rows.value[: len(acted)] - acted).abs().max() <= 1e-5
        loss = trainer.loss(batch)
        assert float(loss.rho_mean) == pytest.approx(1.0, abs=1e-5)
        resets |= batch.reset[:LENGTH].unflatten(1, (-1, 3)).any(1)
    assert resets.all(), "the table needs a reset of every kind at every row"


def test_other_weights_do_not(valkey: EmbeddedValkey) -> None:
    batches, trainer, _ = play("mlp", valkey.url)
    with torch.no_grad():
        next(trainer.network.policy_heads.parameters()).add_(0.01)
        next(trainer.network.trunk.parameters()).add_(0.01)
    assert abs(float(trainer.loss(batches[0]).rho_mean.detach()) - 1) > 1e-5
