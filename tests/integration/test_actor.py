"""A whole actor against a real parameter server and a real buffer."""

import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import grpc
import numpy as np
import pytest
import torch
from cluster_clients import Client, Learner
from grpc_health.v1 import health_pb2, health_pb2_grpc
from param_servers import ServerThread, eventually, free_port
from pronk_actor import service
from toy_envs import LENGTH
from valkeys import EmbeddedValkey

from pronk import envs
from pronk.envs.make import _seeds
from pronk.nets.network import PolicyNetwork, build
from pronk.policy.bundle import Bundle
from pronk.policy.export import Exporter
from pronk.telemetry import metrics
from pronk.transport import cluster
from pronk.transport.buffer import BufferKeys, Consumer
from pronk.transport.redis import connect
from pronk.wire import codec
from pronk.wire.unroll import Unroll
from pronk.wire.v1 import registry_pb2 as pb
from pronk.wire.validate import Expectation, check

EXPERIMENT = """
name: tiny
env: {id: CartPole-v1}
network: {kwargs: {hidden: [8]}, core: lstm, core_size: 4}
algorithm: {unroll_length: 5, batch_size: 4}
actor: {slots: 4}
buffer: {max_entries: 6}
"""
TWO_POLICIES = EXPERIMENT.replace("{max_entries: 6}", "{max_entries: 6, max_bytes: 2_000_000}")
TWO_POLICIES += "policies: {red: {share: 3}, blue: {}}\n"


@pytest.fixture(scope="module")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedValkey]:
    with EmbeddedValkey(tmp_path_factory.mktemp("valkey")) as server:
        yield server


class TestLearner:
    """Publishes real policies of random weights and reads the buffer."""

    __test__ = False

    def __init__(self, client: Client, url: str, policy: str = "default") -> None:
        experiment = client.server.experiment
        self.learner: Learner = client.learner(policy)
        spec = envs.describe(experiment.env)
        torch.manual_seed(0)
        self.network: PolicyNetwork = build(spec, experiment.network_of(policy))
        self.exporter = Exporter(self.network, policy, env=experiment.env)
        run = self.learner.membership.run
        self.consumer = Consumer(connect(url), BufferKeys(run, policy), "epoch-1-rank-0")
        assert self.consumer.read(1, 0) == []  # actors wait for a learner
        length = experiment.algorithm_of(policy).unroll_length
        self.expectation = Expectation(
            run, client.server.hash, policy, spec, length, self.network.core_shapes
        )

    def bundle(self, number: int) -> Bundle:
        weights = {k: torch.randn_like(v) for k, v in self.network.state_dict().items()}
        epoch = self.learner.grant.epoch
        return self.exporter.bundle(weights, epoch=epoch, number=number, frames=0)

    def publish(self, number: int) -> None:
        assert self.learner.publisher.publish(self.bundle(number))

    def receive(self) -> list[Unroll]:
        """What lies in the buffer: decoded, checked, acknowledged."""
        entries = self.consumer.read(16, 50)
        unrolls = [codec.decode(entry.payload) for entry in entries]
        for unroll in unrolls:
            check(unroll, self.expectation)
        self.consumer.ack([entry.id for entry in entries])
        return unrolls

    def receive_until(self, number: int) -> list[Unroll]:
        """Unrolls up to the first of version `number`."""
        got: list[Unroll] = []
        deadline = time.monotonic() + 20
        while not got or got[-1].behaviour_version[0, 0] < number:
            assert time.monotonic() < deadline, "the version never acted"
            got += self.receive()
        return got


class ActorThread:
    """An actor in this process; a context manager."""

    def __init__(self, server: ServerThread, **options: Any) -> None:
        self.stop = threading.Event()
        self.error: BaseException | None = None
        self._experiment = server.experiment
        self._options = options
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        try:
            if self._options:
                service.evaluate(self._experiment, self.stop, **self._options)
            else:
                service.train(self._experiment, self.stop)
        except BaseException as error:
            self.error = error

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def leave(self, meanwhile: Callable[[], object] = lambda: None) -> float:
        """Tell it to leave; the seconds that it took."""
        began = time.monotonic()
        self.stop.set()
        while self._thread.is_alive() and time.monotonic() < began + 15:
            meanwhile()
            self._thread.join(0.05)
        assert not self._thread.is_alive()
        if self.error is not None:
            raise self.error
        return time.monotonic() - began

    def __exit__(self, *_: object) -> None:
        self.leave()


@pytest.fixture
def place(tmp_path: Path, valkey: EmbeddedValkey, monkeypatch: pytest.MonkeyPatch):
    """Starts a server for an experiment, and points actors of this process to it."""
    opened: list[Any] = []
    # Most of these tests leave the buffer full: nobody makes room for what is on its way.
    monkeypatch.setattr(service, "_GRACE_SECONDS", 0.5)

    def start(text: str = EXPERIMENT) -> tuple[ServerThread, Client]:
        server = ServerThread(tmp_path / f"run-{len(opened)}", text)
        server.__enter__()
        client = Client(server)
        opened.extend((server, client))
        monkeypatch.setenv("PRONK_SERVER", str(server.address))
        monkeypatch.setenv("PRONK_REDIS_URL", valkey.url)
        start.health = free_port()
        monkeypatch.setenv("PRONK_HEALTH_LISTEN", f"127.0.0.1:{start.health}")
        return server, client

    yield start
    for one in reversed(opened):
        one.__exit__(None, None, None)


def healthy(port: int, name: str) -> bool:
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        request = health_pb2.HealthCheckRequest(service=name)
        answer = health_pb2_grpc.HealthStub(channel).Check(request, timeout=5)
    return answer.status == health_pb2.HealthCheckResponse.SERVING


def living(client: Client, kind: pb.MemberKind.ValueType) -> list[pb.Member]:
    return [m for m in client.status().members if m.kind == kind and m.alive]


def test_an_actor_waits_for_a_policy_plays_adopts_newer_ones_and_leaves(place, valkey):
    server, client = place()
    with ActorThread(server) as actor:
        learner = TestLearner(client, valkey.url)
        eventually(lambda: living(client, pb.MEMBER_KIND_TRAIN))
        assert not learner.receive()
        assert healthy(place.health, "liveness")
        assert not healthy(place.health, "readiness")
        learner.publish(1)
        first = learner.receive_until(1)
        eventually(lambda: healthy(place.health, "readiness"))
        learner.publish(2)
        second = learner.receive_until(2)
        unrolls = first + second
        assert [u.header.sequence for u in unrolls] == list(range(1, len(unrolls) + 1))
        versions = [int(u.behaviour_version[0, 0]) for u in unrolls]
        assert versions == sorted(versions)
        assert set(versions) == {1, 2}
        for before, after in itertools.pairwise(unrolls):
            assert (before.obs["default"][-1] == after.obs["default"][0]).all()
        stats = eventually(
            lambda: [m.actor for m in living(client, pb.MEMBER_KIND_TRAIN) if m.actor.steps]
        )[0]
        assert stats.frames == stats.steps
        assert stats.slots == 4
        assert actor.leave() < 5
    assert not living(client, pb.MEMBER_KIND_TRAIN)


def test_a_full_buffer_blocks_and_is_left_in_time(place, valkey):
    server, client = place()
    with ActorThread(server) as actor:
        learner = TestLearner(client, valkey.url)
        learner.publish(1)
        member = eventually(
            lambda: [
                m
                for m in living(client, pb.MEMBER_KIND_TRAIN)
                if m.actor.blocked_seconds > 1 and m.actor.unrolls
            ]
        )[0]
        # Six in the buffer, one on its way, two in the queue, one that waits for the queue.
        assert member.actor.unrolls == 10
        assert healthy(place.health, "liveness")
        assert healthy(place.health, "readiness")
        assert actor.leave() < 5
    assert len(learner.receive()) == 6


def test_what_is_on_its_way_is_flushed_when_there_is_room(place, valkey, monkeypatch):
    """There is room only after it has begun to leave."""
    monkeypatch.setattr(service, "_GRACE_SECONDS", 10)
    server, client = place()
    with ActorThread(server) as actor:
        learner = TestLearner(client, valkey.url)
        learner.publish(1)
        eventually(lambda: [m for m in client.status().members if m.actor.unrolls == 10])
        received: list[Unroll] = []
        room = threading.Timer(1, lambda: received.extend(learner.receive()))
        room.start()
        assert actor.leave() < 9
        room.join()
    received += learner.receive()
    assert [u.header.sequence for u in received] == list(range(1, 11))


def test_a_finished_run_is_idled_through(place, valkey):
    server, client = place()
    with ActorThread(server) as actor:
        learner = TestLearner(client, valkey.url)
        learner.publish(1)
        learner.receive_until(1)
        learner.learner.finish("enough")
        eventually(lambda: not learner.receive() and not learner.receive(), 20)
        time.sleep(0.3)
        assert not learner.receive()
        assert healthy(place.health, "readiness")
        assert healthy(place.health, "liveness")
        cluster.set_run_state(
            client.channel, learner.learner.member, pb.RUN_STATE_RUNNING, "more", client.stop
        )
        assert learner.receive_until(1)
        learner.learner.finish("enough")
        assert actor.leave() < 4


def test_a_policy_with_a_wrong_fingerprint_never_acts(place, valkey):
    server, client = place()
    with ActorThread(server) as actor:
        learner = TestLearner(client, valkey.url)
        learner.publish(1)
        learner.receive_until(1)
        good = learner.bundle(2)
        forged = good.manifest.model_copy(
            update={"fingerprint": learner.bundle(3).manifest.fingerprint}
        )
        assert learner.learner.publisher.publish(
            Bundle(forged, good.graph, good.weights, good.probe)
        )
        deadline = time.monotonic() + 1.5
        while time.monotonic() < deadline:
            assert all((u.behaviour_version == 1).all() for u in learner.receive())
        learner.publish(4)
        assert {int(u.behaviour_version[0, 0]) for u in learner.receive_until(4)} <= {1, 4}
        assert actor.leave() < 5


def test_two_policies_have_streams_and_versions_of_their_own(place, valkey):
    server, client = place(TWO_POLICIES)
    with ActorThread(server) as actor:
        red = TestLearner(client, valkey.url, "red")
        blue = TestLearner(client, valkey.url, "blue")
        red.publish(1)
        time.sleep(0.2)
        assert not red.receive()  # the slots share one environment: it waits for both
        blue.publish(7)
        reds, blues = red.receive_until(1), blue.receive_until(7)
        assert {tuple(u.slot.tolist()) for u in reds} == {(0, 1, 2)}
        assert {tuple(u.slot.tolist()) for u in blues} == {(3,)}
        assert actor.leave() < 5


def test_lock_step_waits_for_the_next_version(place, valkey):
    server, client = place(EXPERIMENT.replace("{slots: 4}", "{slots: 4, lockstep: true}"))
    with ActorThread(server) as actor:
        learner = TestLearner(client, valkey.url)
        for number in (1, 2, 3):
            learner.publish(number)
            (unroll,) = learner.receive_until(number)
            assert (unroll.behaviour_version == number).all()
            time.sleep(0.1)
            assert not learner.receive()
        assert actor.leave() < 5


def first_unroll(place, valkey, seed: int) -> Unroll:
    """Of an actor with the same policy, whatever the seed."""
    server, client = place(f"{EXPERIMENT}seed: {seed}\n")
    with ActorThread(server):
        learner = TestLearner(client, valkey.url)
        learner.publish(1)
        return learner.receive_until(1)[0]


def test_the_seed_decides_what_an_actor_sees_and_does(place, valkey):
    once, again, other = (first_unroll(place, valkey, seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(once.obs["default"], again.obs["default"])
    np.testing.assert_array_equal(once.action["default"], again.action["default"])
    assert (once.obs["default"][0] != other.obs["default"][0]).any()
    assert (once.action["default"] != other.action["default"]).any()


def test_an_evaluating_actor_reports_under_its_own_kind_and_pushes_nothing(place, valkey):
    server, client = place()
    with ActorThread(server, sample=False) as actor:
        learner = TestLearner(client, valkey.url)
        learner.publish(1)
        kind = pb.MEMBER_KIND_EVALUATE
        summary = eventually(
            lambda: [e for e in client.status().episodes if e.kind == kind and e.finished >= 20]
        )[0]
        assert summary.policy == "default"
        assert 1 <= summary.return_mean <= 500
        assert summary.lost == 0
        assert living(client, kind)
        assert not living(client, pb.MEMBER_KIND_TRAIN)
        assert not learner.receive()
        assert healthy(place.health, "readiness")
        assert actor.leave() < 5


def test_episodes_of_training_are_reported(place, valkey):
    server, client = place()
    with ActorThread(server) as actor:
        learner = TestLearner(client, valkey.url)
        learner.publish(1)
        shipped: list[Unroll] = []

        def reported() -> list[pb.EpisodeSummary]:
            shipped.extend(learner.receive())
            return [e for e in client.status().episodes if e.finished > 50]

        eventually(reported)
        # Nothing is left behind while there is room.
        actor.leave(lambda: shipped.extend(learner.receive()))
        shipped += learner.receive()
    (summary,) = client.status().episodes
    carried = [episode for unroll in shipped for episode in unroll.episodes]
    keys = [(e.slot, e.number) for e in carried]
    assert len(set(keys)) == len(keys)
    assert summary.finished == len(carried)
    assert summary.started == summary.finished + 4
    assert summary.lost == 4  # those under way when the actor left


def test_a_slot_that_fails_every_few_steps_costs_the_others_nothing(place, valkey):
    """No row of what it sends is false: each leads to the next step of the same episode."""
    seeds = _seeds([0, 0, pb.MEMBER_KIND_TRAIN, 0], 4)
    kwargs = {"faults": dict.fromkeys(map(str, seeds[:3]), ""), "otherwise": "crash"}
    env = f"{{id: 'toy_envs:Faulty', kwargs: {json.dumps(kwargs)}}}"
    server, client = place(EXPERIMENT.replace("{id: CartPole-v1}", env))
    counter = metrics.ENVIRONMENT_FAILURES.labels("crash")
    before = counter._value.get()
    with ActorThread(server) as actor:
        learner = TestLearner(client, valkey.url)
        learner.publish(1)
        unrolls: list[Unroll] = []
        while len(unrolls) < 20:
            unrolls += learner.receive()

        def lost() -> list[pb.EpisodeSummary]:
            unrolls.extend(learner.receive())
            return [e for e in client.status().episodes if e.finished > 20 and e.lost > 20]

        eventually(lost)
        assert actor.leave() < 5
    failures = 0
    for unroll in unrolls:
        count, valid = unroll.obs["count"], unroll.valid
        assert (count[1:] == np.where(valid, count[:-1] + 1, 0)).all()
        assert (unroll.reward == np.where(valid, count[1:], 0)).all()
        assert (unroll.terminated == (valid & (count[1:] == LENGTH))).all()
        assert not unroll.terminated[:, 3].any()
        assert {episode.slot for episode in unroll.episodes} <= {0, 1, 2}
        assert all(episode.steps == LENGTH for episode in unroll.episodes)
        failures += int((~valid[:, 3]).sum())
    assert failures >= 20 * 2
    assert counter._value.get() - before >= failures


def actor_process(
    server: ServerThread, tmp_path: Path, *arguments: str, text: str = EXPERIMENT, **env: str
):
    config = tmp_path / "experiment.yaml"
    config.write_text(text)
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "pronk.cli.main", "actor", "--config", config, *arguments],
        env={**os.environ, **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_real_process_leaves_within_seconds_with_status_0(place, valkey, tmp_path):
    server, client = place()
    process = actor_process(server, tmp_path, PRONK_HEALTH_LISTEN="127.0.0.1:0")
    try:
        learner = TestLearner(client, valkey.url)
        learner.publish(1)
        learner.receive_until(1)
        process.send_signal(signal.SIGTERM)
        began = time.monotonic()
        _, errors = process.communicate(timeout=15)
    finally:
        process.kill()
    assert process.returncode == 0, errors
    assert time.monotonic() - began < 6
    assert "Traceback" not in errors
    assert not living(client, pb.MEMBER_KIND_TRAIN)


def test_a_process_that_has_no_policy_yet_leaves_as_well(place, tmp_path):
    server, client = place()
    process = actor_process(server, tmp_path, PRONK_HEALTH_LISTEN="127.0.0.1:0")
    try:
        eventually(lambda: living(client, pb.MEMBER_KIND_TRAIN), 20)
        process.terminate()
        process.communicate(timeout=10)
    finally:
        process.kill()
    assert process.returncode == 0


def test_a_process_whose_environment_always_fails_ends_with_one_line(place, valkey, tmp_path):
    """With status 1, not 2: its supervisor starts it again, which may help."""
    env = "{id: 'toy_envs:Faulty', kwargs: {otherwise: crash, at: 1}}"
    text = EXPERIMENT.replace("{id: CartPole-v1}", env)
    server, client = place(text)
    variables = {"PRONK_HEALTH_LISTEN": "127.0.0.1:0", "PYTHONPATH": os.pathsep.join(sys.path)}
    process = actor_process(server, tmp_path, text=text, **variables)
    try:
        TestLearner(client, valkey.url).publish(1)
        _, errors = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 1, errors
    assert [line for line in errors.splitlines() if not line.startswith("{")] == [
        "pronk: environment toy_envs:Faulty (slot 0) failed 5 times in a row: "
        "RuntimeError: the simulator is gone"
    ]
    assert errors.count('"event": "environment_failed"') == 1


@pytest.mark.parametrize(
    ("arguments", "env", "says"),
    [
        (["--set", "seed=3"], {}, "experiment"),
        ([], {"PRONK_REDIS_URL": "nonsense"}, "PRONK_REDIS_URL"),
    ],
)
def test_a_misconfigured_actor_ends_with_one_line(place, tmp_path, arguments, env, says):
    server, client = place()
    client.learner()
    client.join(pb.MEMBER_KIND_TRAIN)
    variables = {"PRONK_HEALTH_LISTEN": "127.0.0.1:0", **env}
    process = actor_process(server, tmp_path, *arguments, **variables)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 2, errors
    lines = [line for line in errors.splitlines() if not line.startswith("{")]
    assert len(lines) == 1, errors
    assert lines[0].startswith("pronk: ")
    assert says in lines[0]
