"""A whole learner between a real parameter server and a real buffer; the actor is played here."""

import json
import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from errno import ENOSPC
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from cluster_clients import TRAIN, Client, Learner
from param_servers import ServerThread, eventually
from pronk_learner import checkpoint, service
from pronk_learner.report import Journal
from pronk_learner.service import serve
from pronk_learner.trainer import Trainer, Update
from valkeys import EmbeddedValkey

from pronk import config
from pronk.errors import Fenced
from pronk.policy.bundle import Bundle
from pronk.rl.batch import Batch
from pronk.telemetry import metrics
from pronk.transport.buffer import BufferKeys, Producer, buffer_state, scripts
from pronk.transport.cluster import list_reports
from pronk.transport.membership import Membership
from pronk.transport.redis import connect as connect_redis
from pronk.wire import codec, validate
from pronk.wire.bounds import MAX_FLOAT
from pronk.wire.contract import CONTRACT_VERSION
from pronk.wire.unroll import Episode, Unroll, UnrollHeader
from pronk.wire.v1 import registry_pb2 as pb
from pronk.wire.v1.registry_pb2_grpc import RegistryServiceStub

SLOTS, LENGTH = 8, 5
EXPERIMENT = f"""
name: tiny
env: {{id: CartPole-v1}}
network: {{kwargs: {{hidden: [8]}}}}
algorithm: {{unroll_length: {LENGTH}, batch_size: {SLOTS}, optimizer: {{name: adam}}}}
actor: {{slots: {SLOTS}}}
buffer: {{max_bytes: 8_000_000}}
stop: {{frames: 400}}
"""


@pytest.fixture(scope="module")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedValkey]:
    with EmbeddedValkey(tmp_path_factory.mktemp("valkey")) as server:
        yield server


class Cluster:
    """What a learner meets: a parameter server, a buffer, and an actor that is this test."""

    def __init__(
        self,
        server: ServerThread,
        client: Client,
        valkey: EmbeddedValkey,
        learns: Callable[[], bool],
    ) -> None:
        self.client = client
        self.learns = learns
        self.actor = client.join(TRAIN)
        self.redis = connect_redis(valkey.url)
        self.keys = BufferKeys(self.actor.run, "default")
        self._hash = server.hash
        self.redis.script_load(scripts.ADD)  # as a learner before this one did
        self._producer = Producer(self.redis, self.keys, 64, 1 << 24)
        self._sequence = 0
        self._rng = np.random.default_rng(0)

    def send(
        self,
        reward: float = 1.0,
        run: str | None = None,
        contract: int = CONTRACT_VERSION,
        version: int = 1,
        shown: float | None = None,
    ) -> None:
        """Add an unroll to the buffer; `shown` stands in one of its observations."""
        self._sequence += 1
        header = UnrollHeader(
            self._hash, run or self.actor.run, "default", self.actor.member, self._sequence
        )
        with patch.object(codec, "CONTRACT_VERSION", contract):
            made = unroll(header, self._rng, reward, version)
            if shown is not None:
                made.obs["default"][0, 0, 0] = shown
            payload = codec.encode(made)
        assert self._producer.send(self.actor.member, self._sequence, payload, self.client.stop)

    def send_again(self, member: str) -> None:
        """Add a member's first unroll although the buffer had it: it forgets when it is emptied."""
        header = UnrollHeader(self._hash, self.actor.run, "default", member, 1)
        payload = codec.encode(unroll(header, self._rng, 1.0))
        assert self._producer.send("forgotten", 1, payload, self.client.stop)

    def state(self) -> pb.RunState.ValueType:
        return self.client.status().run_state

    def newest(self) -> list[int]:
        """Number of the newest version, once there is one."""
        return [version.number for version in self.client.status().newest]

    def refused(self) -> int:
        """Unrolls that the learner refused, as its heartbeats tell."""
        return sum(member.learner.unrolls_refused for member in self.client.status().members)

    def waiting(self) -> int:
        state = buffer_state(self.redis, self.keys)
        assert state is not None
        return state.length


def unroll(
    header: UnrollHeader, rng: np.random.Generator, reward: float, version: int = 1
) -> Unroll:
    rows = (LENGTH, SLOTS)
    return Unroll(
        header=header,
        obs={"default": rng.normal(size=(LENGTH + 1, SLOTS, 4)).astype(np.float32)},
        action={"default": rng.integers(0, 2, rows)},
        behaviour_log_prob=np.full(rows, np.log(0.5), np.float32),
        reward=np.full(rows, reward, np.float32),
        terminated=np.zeros(rows, np.bool_),
        truncated=np.zeros(rows, np.bool_),
        valid=np.ones(rows, np.bool_),
        task=np.zeros((LENGTH + 1, SLOTS), np.int32),
        behaviour_version=np.full(rows, version),
        core_state={},
        last_action={"default": np.zeros(SLOTS, np.int64)},
        last_reward=np.zeros(SLOTS, np.float32),
        reset=np.zeros(SLOTS, np.bool_),
        slot=np.arange(SLOTS, dtype=np.int32),
        episodes=(Episode(7.0, 5, 5, 0, 0, header.sequence),),
    )


@contextmanager
def learning(
    folder: Path,
    valkey: EmbeddedValkey,
    monkeypatch: pytest.MonkeyPatch,
    text: str = EXPERIMENT,
    before: Callable[[Client], object] = lambda _client: None,
) -> Iterator[Cluster]:
    """A learner at work in a thread; leaving stops it and shows what it died of."""
    stop, errors = threading.Event(), []
    with ServerThread(folder, text) as server, Client(server) as client:
        monkeypatch.setenv("PRONK_SERVER", str(server.address))
        monkeypatch.setenv("PRONK_REDIS_URL", valkey.url)
        monkeypatch.setenv("PRONK_RUN_DIR", str(folder))

        def run() -> None:
            try:
                serve(server.experiment, None, stop)
            except BaseException as error:
                errors.append(error)

        thread = threading.Thread(target=run)
        cluster = Cluster(server, client, valkey, thread.is_alive)
        before(client)
        thread.start()
        try:
            yield cluster
        finally:
            stop.set()
            thread.join(30)
        assert not thread.is_alive()
    if errors:
        raise errors[0]


def test_it_trains_refuses_what_is_foreign_and_finishes(
    tmp_path: Path, valkey: EmbeddedValkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    with learning(tmp_path, valkey, monkeypatch) as cluster:
        cluster.send(run="another-run")
        cluster.send(contract=CONTRACT_VERSION - 1)
        cluster.redis.xadd(cluster.keys.stream, {"x": "junk"})
        for _ in range(10):  # 400 frames
            cluster.send()
        eventually(lambda: cluster.state() == pb.RUN_STATE_FINISHED, 30)
        assert cluster.waiting() == 0, "what was trained or refused is out of the buffer"
        eventually(lambda: cluster.refused() == 3, 30)
        (left,) = list_reports(cluster.client.channel)

    assert left.policy == "default"
    assert left.summary == (tmp_path / "summary.json").read_bytes()
    assert left.curve == (tmp_path / "curve.png").read_bytes()
    assert left.metrics == (tmp_path / "metrics.jsonl").read_bytes()
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert (summary["steps"], summary["learner_updates"]) == (400, 10)
    assert summary["return_mean_last_100"] == 7.0
    assert metrics.RETURN_MEAN.labels("default")._value.get() == 7.0
    assert metrics.RETURN_QUANTILE.labels("default", "0.9")._value.get() == 7.0
    assert summary["stop_reason"] == "frames reached 400"
    (folder,) = (tmp_path / "policies").iterdir()
    assert Bundle.load(folder).manifest.frames == 400


def test_on_a_full_disk_it_waits_for_room_to_start(
    tmp_path: Path, valkey: EmbeddedValkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    full, refused = threading.Event(), []

    def journal(folder: Path, updates: int) -> Journal:
        if full.is_set():
            refused.append(folder)
            raise OSError(ENOSPC, "No space left on device")
        return Journal(folder, updates)

    full.set()
    monkeypatch.setattr(service, "Journal", journal)
    with learning(tmp_path, valkey, monkeypatch) as cluster:
        eventually(lambda: len(refused) > 2, 30)
        assert cluster.learns()
        assert not cluster.newest()
        full.clear()
        eventually(cluster.newest, 30)


def test_without_a_server_it_saves_on_until_another_has_taken_over(
    tmp_path: Path, valkey: EmbeddedValkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Down or only cut off from here: nobody can tell, but for what a successor leaves behind."""
    monkeypatch.setattr("pronk_param_server.registry.LEASE_SECONDS", 0.5)
    text = EXPERIMENT.replace("frames: 400", "frames: 40_000") + "learner: {checkpoint_seconds: 1}"
    folder = tmp_path / "checkpoints"

    def saved() -> checkpoint.Checkpoint:
        found = checkpoint.newest(folder)
        assert found is not None
        return found

    with (  # noqa: PT012 - leaving `learning` shows what the learner died of
        pytest.raises(Fenced, match=r"epoch 1 ended: .* holds a checkpoint of epoch 2"),
        learning(tmp_path, valkey, monkeypatch, text) as cluster,
    ):
        eventually(lambda: checkpoint.folders(folder), 30)
        assert (saved().epoch, saved().counters.updates) == (1, 0), "saved before it trained"
        cluster.client.server.__exit__()
        for _ in range(3):
            cluster.send()
        eventually(lambda: saved().counters.updates == 3, 30)
        assert cluster.waiting() == 0
        assert config.parse(saved().experiment).learner.checkpoint_seconds == 1

        successor = checkpoint.save(folder, replace(saved(), epoch=2), keep=1)
        cluster.send()
        eventually(lambda: not cluster.learns(), 30)
        assert checkpoint.folders(folder) == [successor]


def test_once_it_hears_of_a_newer_epoch_it_writes_nothing_more(
    tmp_path: Path, valkey: EmbeddedValkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    fenced: list[Membership] = []

    def membership(*args: Any) -> Membership:
        fenced.append(Membership(*args))
        return fenced[0]

    monkeypatch.setattr("pronk_learner.service.Membership", membership)
    folder = tmp_path / "checkpoints"
    with (  # noqa: PT012 - leaving `learning` shows what the learner died of
        pytest.raises(Fenced, match="epoch 1 of policy 'default' ended: 2 was granted"),
        learning(tmp_path, valkey, monkeypatch) as cluster,
    ):
        cluster.send()
        eventually(lambda: cluster.newest() == [2] and cluster.waiting() == 0, 30)
        # As after a silence that outlasted its lease, without the wait.
        gone = pb.LeaveRequest(member=fenced[0].member)
        RegistryServiceStub(cluster.client.channel).Leave(gone, timeout=5)
        assert cluster.client.learner().grant.epoch == 2
        eventually(lambda: fenced[0]._epochs.get("default") == 2, 30)
        saved = checkpoint.folders(folder)

        cluster.send()
        eventually(lambda: not cluster.learns(), 30)
        assert cluster.waiting() == 1, "not acknowledged"
        assert cluster.newest() == [2], "not published"
        assert checkpoint.folders(folder) == saved, "not saved"


def test_a_resumed_run_goes_on_where_it_was(
    tmp_path: Path, valkey: EmbeddedValkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    with learning(tmp_path, valkey, monkeypatch) as cluster:
        for _ in range(5):
            cluster.send()
        eventually(lambda: cluster.waiting() == 0, 30)
    first = checkpoint.newest(tmp_path / "checkpoints")
    assert first is not None
    assert first.counters.updates == 5
    assert first.optimizer, "Adam's moments are kept"

    with learning(tmp_path, valkey, monkeypatch) as cluster:
        for _ in range(5):
            cluster.send()
        eventually(lambda: cluster.state() == pb.RUN_STATE_FINISHED, 30)
    second = checkpoint.newest(tmp_path / "checkpoints")
    assert second is not None
    assert second.counters.updates == 10
    assert second.counters.version > first.counters.version
    steps = next(name for name in second.optimizer if name.endswith("step"))
    assert torch.equal(second.optimizer[steps], torch.tensor(10.0)), "Adam began anew"


def test_who_waited_for_the_epoch_goes_on_from_what_was_saved_meanwhile(
    tmp_path: Path, valkey: EmbeddedValkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "checkpoints"
    with learning(tmp_path, valkey, monkeypatch):
        eventually(lambda: checkpoint.folders(folder), 30)
    first = checkpoint.newest(folder)
    assert first is not None
    holders: list[Learner] = []
    with learning(
        tmp_path, valkey, monkeypatch, before=lambda client: holders.append(client.learner())
    ) as cluster:
        eventually(lambda: len(cluster.client.status().members) == 3, 30)
        counters = replace(first.counters, updates=40)
        checkpoint.save(folder, replace(first, epoch=2, counters=counters), keep=3)
        holders[0].membership.leave()
        eventually(lambda: checkpoint.folders(folder)[-1].name.startswith("000003"), 30)
    last = checkpoint.newest(folder)
    assert last is not None
    assert (last.epoch, last.counters.updates) == (3, 40)


def test_a_half_trained_unroll_is_trained_to_its_end_and_no_further(
    tmp_path: Path, valkey: EmbeddedValkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = EXPERIMENT.replace(f"batch_size: {SLOTS}", "batch_size: 12")
    with learning(tmp_path, valkey, monkeypatch, text) as cluster:
        cluster.send()
        cluster.send()  # 12 of 16 slots make a batch
        eventually(lambda: cluster.waiting() == 1, 30)

    with learning(tmp_path, valkey, monkeypatch, text) as cluster:
        cluster.send()  # with the 4 that were left
        eventually(lambda: cluster.waiting() == 0, 30)
    saved = checkpoint.newest(tmp_path / "checkpoints")
    assert saved is not None
    assert (saved.counters.updates, saved.counters.steps) == (2, 24 * LENGTH)
    assert saved.counters.episodes == 3


def test_an_unroll_that_comes_again_is_not_trained_again(
    tmp_path: Path, valkey: EmbeddedValkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    with learning(tmp_path, valkey, monkeypatch) as cluster:
        cluster.send()
        eventually(lambda: cluster.waiting() == 0, 30)
        member = cluster.actor.member
    with learning(tmp_path, valkey, monkeypatch) as cluster:
        cluster.send_again(member)
        cluster.send()
        eventually(lambda: cluster.waiting() == 0, 30)
    saved = checkpoint.newest(tmp_path / "checkpoints")
    assert saved is not None
    assert saved.counters.updates == 2


def test_an_unroll_that_comes_twice_before_it_is_trained_is_trained_once(
    tmp_path: Path, valkey: EmbeddedValkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = EXPERIMENT.replace(f"batch_size: {SLOTS}", f"batch_size: {2 * SLOTS}")
    with learning(tmp_path, valkey, monkeypatch, text) as cluster:
        cluster.send()
        cluster.send_again(cluster.actor.member)
        eventually(lambda: cluster.waiting() == 1, 30)  # the second of them is out
        cluster.send()
        eventually(lambda: cluster.waiting() == 0, 30)
    saved = checkpoint.newest(tmp_path / "checkpoints")
    assert saved is not None
    assert (saved.counters.updates, saved.counters.episodes) == (1, 2)


def test_in_lock_step_an_unroll_that_is_refused_is_followed_by_a_version_too(
    tmp_path: Path, valkey: EmbeddedValkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else its actor would wait for one for ever."""
    text = EXPERIMENT.replace("actor: {", "actor: {lockstep: true, ")
    with learning(tmp_path, valkey, monkeypatch, text) as cluster:
        for number, run in ((2, "another-run"), (3, None), (4, "another-run"), (5, None)):
            cluster.send(run=run)
            eventually(lambda n=number: cluster.newest() == [n], 30)
        assert cluster.waiting() == 0
    saved = checkpoint.newest(tmp_path / "checkpoints")
    assert saved is not None
    assert (saved.counters.updates, saved.counters.version) == (2, 5)


def test_versions_above_its_own_are_refused(
    tmp_path: Path, valkey: EmbeddedValkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    with learning(tmp_path, valkey, monkeypatch) as cluster:
        cluster.send(version=1_000_000)
        for _ in range(3):
            cluster.send(version=1)
        eventually(lambda: cluster.newest() == [4] and cluster.refused() == 1, 30)
        cluster.send(version=4)
        eventually(lambda: cluster.newest() == [5], 30)


def test_training_that_diverges_fails_with_the_reason(
    tmp_path: Path, valkey: EmbeddedValkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(validate, "MAX_FLOAT", math.inf)
    with learning(tmp_path, valkey, monkeypatch) as cluster:
        for _ in range(55):
            cluster.send(reward=3e38)  # finite, and its square is not
        eventually(lambda: cluster.state() == pb.RUN_STATE_FAILED, 30)
        assert "diverged" in cluster.client.status().run_state_reason
    saved = checkpoint.newest(tmp_path / "checkpoints")
    assert saved is not None
    assert all(torch.isfinite(weight).all() for weight in saved.weights.values())


def test_observations_of_a_simulator_that_blew_up_end_no_run(
    tmp_path: Path, valkey: EmbeddedValkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = EXPERIMENT.replace("network: {", "network: {normalise_observations: true, ")
    with learning(tmp_path, valkey, monkeypatch, text) as cluster:
        cluster.send()
        cluster.send(shown=3e38)
        cluster.send(shown=-MAX_FLOAT)  # as far as that it is taken
        for _ in range(8):
            cluster.send()
        eventually(lambda: cluster.state() == pb.RUN_STATE_FINISHED, 30)
        eventually(lambda: cluster.refused() == 1, 30)
    saved = checkpoint.newest(tmp_path / "checkpoints")
    assert saved is not None
    assert saved.counters.updates == 10
    assert all(torch.isfinite(weight).all() for weight in saved.weights.values())


def test_what_is_not_finite_is_not_saved_and_the_run_goes_on_from_before(
    tmp_path: Path, valkey: EmbeddedValkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoil(trainer: Trainer, batch: Batch, frames: int) -> Update:
        done = update(trainer, batch, frames)
        with torch.no_grad():
            next(trainer.network.parameters()).fill_(torch.nan)
        return done

    update = Trainer.update
    failures = metrics.CHECKPOINT_FAILURES.labels("default")._value
    before = failures.get()
    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "update", spoil)
        with learning(tmp_path, valkey, monkeypatch) as cluster:
            for _ in range(55):
                cluster.send()
            eventually(lambda: cluster.state() == pb.RUN_STATE_FAILED, 30)
    assert failures.get() > before, "it is told"
    saved = checkpoint.newest(tmp_path / "checkpoints")
    assert saved is not None
    assert all(torch.isfinite(weight).all() for weight in saved.weights.values())
    with learning(tmp_path, valkey, monkeypatch) as cluster:
        for _ in range(10):
            cluster.send()
        eventually(lambda: cluster.state() == pb.RUN_STATE_FINISHED, 30)


def test_a_policy_that_is_done_does_not_hold_up_the_others(
    tmp_path: Path, valkey: EmbeddedValkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = EXPERIMENT + "policies: {default: {}, other: {}}\n"
    text = text.replace(f"slots: {SLOTS}", f"slots: {2 * SLOTS}")
    monkeypatch.setattr("pronk_learner.service._only_policy", lambda *_: "default")
    with learning(tmp_path, valkey, monkeypatch, text) as cluster:
        for _ in range(30):  # three times what it trains on
            cluster.send()
        eventually(lambda: cluster.waiting() == 0, 30)
        assert cluster.state() == pb.RUN_STATE_RUNNING
