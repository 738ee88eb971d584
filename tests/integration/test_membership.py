"""Members: joining, heartbeats, leases, a server that comes and goes."""

import shutil
import signal
import sqlite3
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from cluster_clients import LEARNER, TRAIN, Client
from param_servers import (
    EXPERIMENT_YAML,
    SPEC,
    ServerProcess,
    ServerThread,
    eventually,
    fake_bundle,
)
from prometheus_client import REGISTRY
from pronk_param_server import members
from pronk_param_server.store import Store

from pronk.errors import Fenced, Misconfigured
from pronk.policy.manifest import to_json
from pronk.transport import cluster, retry
from pronk.transport.bundles import to_message
from pronk.transport.membership import Held, Membership
from pronk.transport.policies import PolicyPublisher
from pronk.wire.contract import CONTRACT_VERSION
from pronk.wire.digest import digest
from pronk.wire.v1 import registry_pb2 as pb
from pronk.wire.v1.registry_pb2_grpc import RegistryServiceStub


def again(server: ServerThread) -> ServerThread:
    """A server at the same address on the same directory."""
    assert server.settings.run_dir is not None
    return ServerThread(server.settings.run_dir, address=server.address)


# Joining


def test_a_full_disk_of_the_server_is_waited_out(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By whoever brings the spec, is granted an epoch, or ends the run; a release is not cut."""
    full, commit = threading.Event(), Store.commit

    def commit_if_there_is_room(*args: Any) -> None:
        if full.is_set():
            raise sqlite3.OperationalError("database or disk is full")
        commit(*args)

    def failures() -> float:
        labels = {"what": "server"}
        return REGISTRY.get_sample_value("pronk_disk_failures_total", labels) or 0.0

    monkeypatch.setattr(Store, "commit", commit_if_there_is_room)
    actor, learner = client.membership(TRAIN), client.membership(LEARNER)
    assert learner.join(client.stop)
    steps: list[Callable[[], object]] = [
        lambda: actor.join(client.stop),
        lambda: cluster.grant_epoch(client.channel, learner.member, "default", client.stop),
        lambda: cluster.set_run_state(
            client.channel, learner.member, pb.RUN_STATE_FINISHED, "done", client.stop
        ),
    ]
    with ThreadPoolExecutor(1) as pool:
        for step in steps:
            before = failures()
            full.set()
            waits = pool.submit(step)
            eventually(lambda before=before: failures() > before, 30)
            assert not waits.done()
            full.clear()
            assert waits.result(30)
    assert client.status().run_state == pb.RUN_STATE_FINISHED

    version = pb.Version(policy="default", epoch=1, number=1)
    publisher = PolicyPublisher(client.channel, learner.member, client.stop)
    assert publisher.publish(fake_bundle(1))
    full.set()
    with pytest.raises(grpc.RpcError, match="the server's disk fails"):
        cluster.cut_release(client.channel, learner.member, version, "test", client.stop)
    full.clear()


def test_an_unreachable_server_is_waited_for(tmp_path: Path) -> None:
    server = ServerThread(tmp_path / "run")
    with Client(server) as client:
        joined: list[Membership] = []
        waiting = threading.Thread(target=lambda: joined.append(client.join(TRAIN)))
        waiting.start()
        time.sleep(0.5)
        assert not joined
        with server:
            waiting.join(10)
            assert [member.member for member in joined] == [
                m.member for m in client.status().members
            ]


def test_waiting_can_be_stopped_at_once(tmp_path: Path) -> None:
    server = ServerThread(tmp_path / "run")  # never started
    stop = threading.Event()
    with server.connect() as channel:
        member = Membership(channel, TRAIN, server.hash, ("default",), SPEC)
        threading.Timer(0.3, stop.set).start()
        started = time.monotonic()
        assert not member.join(stop)
        assert time.monotonic() - started < 3
        member.leave()


def test_an_outage_is_one_log_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    server = ServerThread(tmp_path / "run")
    stop = threading.Event()
    with server.connect() as channel:
        threading.Timer(1.5, stop.set).start()
        assert not Membership(channel, TRAIN, server.hash, ("default",), SPEC).join(stop)
    output = capsys.readouterr()
    assert (output.out + output.err).count("waiting_for=") == 1


def test_reminders_come_every_half_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(retry.time, "monotonic", lambda: now)
    reminder = retry.Reminder()
    assert [reminder.due(), reminder.due()] == [True, False]
    now += 29
    assert not reminder.due()
    now += 2
    assert reminder.due()


@pytest.mark.parametrize(
    ("experiment_hash", "policies", "spec", "words"),
    [
        ("f" * 16, ["default"], SPEC, "refuses: the experiment differs: run .* has hash"),
        (None, ["green"], SPEC, "no policy green; the run has default"),
        (
            None,
            ["default"],
            replace(SPEC, environment="Acrobot-v1"),
            "environment is Acrobot-v1, registered was CartPole-v1",
        ),
        (None, ["default"], replace(SPEC, frames_per_step=4), "frames_per_step is 4"),
    ],
)
def test_a_foreign_member_is_told_what_differs(
    client: Client, experiment_hash: str | None, policies: list[str], spec: object, words: str
) -> None:
    client.join(TRAIN)
    foreign = Membership(
        client.channel,
        TRAIN,
        experiment_hash or client.server.hash,
        policies,
        spec,  # type: ignore[arg-type]
    )
    with pytest.raises(Misconfigured, match=words) as error:
        foreign.join(client.stop)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("version", [CONTRACT_VERSION - 1, CONTRACT_VERSION + 1])
@pytest.mark.parametrize("kind", [TRAIN, LEARNER])
def test_a_member_of_another_contract_version_is_one_line(
    client: Client, version: int, kind: pb.MemberKind.ValueType
) -> None:
    member = Membership(client.channel, kind, client.server.hash, ["default"], SPEC)
    member._register_request.contract_version = version
    words = f"contract version {version} does not fit .* run the same version of pronk everywhere"
    with pytest.raises(Misconfigured, match=words) as error:
        member.join(client.stop)
    assert "\n" not in str(error.value)
    assert not client.status().members


# Heartbeats


def test_indexes_and_reports_show_in_status(client: Client) -> None:
    first, second = client.join(TRAIN), client.join(TRAIN)
    assert (first.index, second.index) == (0, 1)
    version = pb.Version(policy="default", epoch=1, number=3)
    second.report(pb.ActorStats(frames=7, busy_seconds=1.5), [version])
    shown = eventually(
        lambda: [m for m in client.status().members if m.actor.frames == 7 and m.versions]
    )
    assert [(m.member, list(m.versions)) for m in shown] == [(second.member, [version])]
    first.leave()
    assert [m.member for m in client.status().members] == [second.member]
    assert client.join(TRAIN).index == 0


def test_demand_is_absent_until_it_can_be_told(client: Client) -> None:
    learner, actor = client.learner(), client.join(TRAIN)
    registry = RegistryServiceStub(client.channel)

    def beat(frames: int, seconds: float) -> None:
        learner.membership.report(pb.LearnerStats(frames_since_start=frames, busy_seconds=seconds))
        actor.report(pb.ActorStats(frames=frames // 4, busy_seconds=seconds))
        for member in (learner.membership, actor):
            request = pb.HeartbeatRequest()
            request.CopyFrom(member._report)
            request.member = member.member
            registry.Heartbeat(request, timeout=5)

    assert not client.status().HasField("actor_demand")
    beat(1000, 5.0)
    assert not client.status().HasField("actor_demand"), "one report tells no rate"
    beat(9000, 25.0)
    assert client.status().actor_demand == pytest.approx(4.0)


def test_the_silent_are_removed_and_their_index_is_used_again(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(members, "LEASE_SECONDS", 1.5)
    living, silent = client.join(TRAIN), client.join(TRAIN)
    silent._left.set()  # as if its process had died
    eventually(lambda: [m.member for m in client.status().members] == [living.member])
    assert client.join(TRAIN).index == silent.index == 1


def test_a_dead_learner_gives_way_after_its_lease(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(members, "LEASE_SECONDS", 1.5)
    monkeypatch.setattr("pronk_param_server.state.LEASE_SECONDS", 1.5)
    dead = client.learner()
    dead.membership._left.set()
    started = time.monotonic()
    assert client.learner().grant.epoch == dead.grant.epoch + 1
    assert time.monotonic() - started > 1.0
    with pytest.raises(Fenced):
        dead.publish(1)


def test_a_member_that_is_forgotten_as_soon_as_it_has_registered_does_so_again(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    heartbeat, refused = members.Members.heartbeat, []

    def forgetful(self: members.Members, *arguments: Any) -> members.Member:
        if len(refused) < 2:  # a heartbeat, and the one that follows the registration
            refused.append(self.remove(arguments[0].member))
        return heartbeat(self, *arguments)

    monkeypatch.setattr(members.Members, "heartbeat", forgetful)
    member = client.join(TRAIN)
    eventually(lambda: len(refused) == 2)
    eventually(lambda: [m.member for m in client.status().members] == [member.member])
    member.check()


def test_a_member_that_was_forgotten_registers_again(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    registered: list[str] = []
    register = members.Members.register

    def recorded(self: members.Members, *arguments: Any) -> members.Member:
        member = register(self, *arguments)
        registered.append(member.id)
        return member

    monkeypatch.setattr(members.Members, "register", recorded)
    monkeypatch.setattr(members, "LEASE_SECONDS", 0.0)
    member = client.join(TRAIN)
    eventually(lambda: registered[:2] == [member.member] * 2)
    monkeypatch.setattr(members, "LEASE_SECONDS", 10.0)
    eventually(lambda: [m.member for m in client.status().members] == [member.member])
    assert member.error is None


# A server that comes and goes


def test_members_come_back_and_the_learner_publishes_again(server: ServerThread) -> None:
    with Client(server) as client:
        learner, actor = client.learner(), client.join(TRAIN)
        learner.membership.on_newest(learner.publisher.reconcile)
        bundle = learner.publish(5)
        server.__exit__()
        time.sleep(1.2)
        with again(server):
            received = eventually(client.watch)
            eventually(lambda: received.bundles == [bundle])
            eventually(lambda: len(client.status().members) == 2)
            assert {m.member for m in client.status().members} == {actor.member, learner.member}
            learner.publish(6)
            eventually(lambda: received.numbers == [5, 6])
            actor.check()


def test_what_the_server_holds_is_told_with_its_hash(client: Client) -> None:
    learner = client.learner()
    bundle = learner.publish(5)
    version = to_message(bundle.manifest).version
    held = {"default": (version, digest(to_json(bundle.manifest).encode()))}
    assert client.join(TRAIN).newest == held, "at once, with the registration"
    eventually(lambda: learner.membership.newest == held)


@pytest.mark.parametrize(
    ("number", "weights", "again"),
    [(4, None, True), (5, None, False), (5, b"others", True), (6, None, False)],
)
def test_a_learner_publishes_again_where_the_server_holds_something_else(
    client: Client, number: int, weights: bytes | None, again: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner = client.learner()
    learner.publish(5)
    other = fake_bundle(number, 1, weights=weights).manifest
    held = Held(to_message(other).version, digest(to_json(other).encode()))
    attempts: list[int] = []
    monkeypatch.setattr(
        learner.publisher, "_attempt", lambda bundle: attempts.append(bundle.manifest.number)
    )
    learner.publisher.reconcile("incarnation", {"default": held})
    assert attempts == [5] * again


def test_a_server_with_another_run_ends_its_members(server: ServerThread) -> None:
    with Client(server) as client:
        actor = client.join(TRAIN)
        server.__exit__()
        assert server.settings.run_dir is not None
        shutil.rmtree(server.settings.run_dir)
        with again(server):
            assert client.stop.wait(15)
            with pytest.raises(Fenced, match=f"belongs to {actor.run}"):
                actor.check()


def test_a_server_with_another_experiment_ends_its_members(server: ServerThread) -> None:
    with Client(server) as client:
        actor = client.join(TRAIN)
        server.__exit__()
        assert server.settings.run_dir is not None
        other = server.settings.run_dir.with_name("other")
        with ServerThread(other, EXPERIMENT_YAML + "seed: 3\n", address=server.address):
            assert client.stop.wait(15)
            with pytest.raises(Misconfigured, match="experiment differs"):
                actor.check()


# Fencing


def test_a_newer_epoch_is_heard_of(client: Client) -> None:
    learner = client.learner()
    learner.membership.check_epoch("default", 1)
    learner.ask_for_epoch()
    with pytest.raises(Fenced, match="2 was granted"):
        eventually(lambda: learner.membership.check_epoch("default", 1))


def test_a_learner_that_stood_still_asks_before_it_goes_on(client: Client) -> None:
    """As after SIGSTOP and SIGCONT: no heartbeat came between, and none may be waited for."""
    learner = client.learner()
    learner.membership._left.set()
    learner.ask_for_epoch()
    learner.membership.check_epoch("default", 1)  # heard of the server a moment ago
    learner.membership._last_answer -= 11
    with pytest.raises(Fenced):
        learner.membership.check_epoch("default", 1)


def test_a_server_that_hangs_does_not_stop_the_training(tmp_path: Path) -> None:
    with ServerProcess(tmp_path / "run") as server, Client(server) as client:
        learner = client.learner()
        learner.membership._left.set()
        server.signal(signal.SIGSTOP)
        learner.membership._last_answer -= 11
        started = time.monotonic()
        for _ in range(1000):
            learner.membership.check_epoch("default", 1)
        assert time.monotonic() - started < 3, "asked once, with a short deadline"
        client.stop.set()
        server.signal(signal.SIGCONT)


def test_leaving_twice_or_without_having_joined_is_fine(client: Client) -> None:
    member = client.join(TRAIN)
    member.leave()
    member.leave()
    Membership(client.channel, LEARNER, client.server.hash, ("default",)).leave()
    assert not client.status().members
    with pytest.raises(grpc.RpcError, match="register again"):
        RegistryServiceStub(client.channel).Heartbeat(
            pb.HeartbeatRequest(member=member.member), timeout=5
        )
    assert not cluster.list_releases(client.channel)
