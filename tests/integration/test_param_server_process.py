"""A parameter server as a process: killed, restarted, stopped, refused a start."""

import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from cluster_clients import TRAIN, Client, Learner
from faults import ruin
from param_servers import (
    EXPERIMENT_YAML,
    SPEC,
    ServerProcess,
    ServerThread,
    eventually,
    fake_bundle,
)
from pronk_param_server.blob_files import blob_path
from pronk_param_server.state import KEPT_VERSIONS, RESERVED_NUMBERS

from pronk.errors import Misconfigured
from pronk.telemetry import metrics
from pronk.transport import cluster
from pronk.transport.bundles import to_message
from pronk.transport.policies import fetch_bundle
from pronk.wire.digest import digest
from pronk.wire.v1 import blobs_pb2
from pronk.wire.v1 import registry_pb2 as pb
from pronk.wire.v1.blobs_pb2_grpc import BlobServiceStub
from pronk.wire.v1.registry_pb2_grpc import RegistryServiceStub

# Crashes


def test_kill_and_restart_on_the_same_directory(tmp_path: Path) -> None:
    with ServerProcess(tmp_path / "run") as server, Client(server) as client:
        actor = client.join(TRAIN)
        learner = client.learner()
        learner.membership.on_newest(learner.publisher.reconcile)
        assert (learner.grant.epoch, learner.grant.number_floor) == (1, 0)
        released = learner.publish(1)
        release = learner.release(released, "the first")
        newest = learner.publish(RESERVED_NUMBERS + 5)
        received = client.watch()
        eventually(lambda: received.bundles == [newest])
        before = client.status()

        server.kill()
        server.start()

        eventually(lambda: client.status().newest == before.newest)
        after = client.status()
        assert after.run == before.run == actor.run
        assert after.server_incarnation != before.server_incarnation
        assert cluster.list_releases(client.channel) == [release]
        assert fetch_bundle(client.channel, release.manifest) == released
        assert cluster.wait_for_spec(client.channel, client.stop) == SPEC
        eventually(lambda: len(client.status().members) == 2)
        members = {member.member: member.index for member in client.status().members}
        assert members == {actor.member: actor.index, learner.member: 0}
        newcomer = client.watch()
        eventually(lambda: newcomer.bundles == [newest])
        assert received.numbers == [newest.manifest.number], "nothing goes back"

        learner.publish(RESERVED_NUMBERS + 6)
        grant = learner.grant = learner.ask_for_epoch()
        assert grant.epoch == 2
        assert grant.number_floor >= RESERVED_NUMBERS + 6
        learner.finish("the stop condition was met")

        server.kill()
        server.start()

        eventually(lambda: client.status())
        status = client.status()
        assert status.run_state == pb.RUN_STATE_FINISHED
        assert status.run_state_reason == "the stop condition was met"
        eventually(lambda: actor.finished)
        again = learner.ask_for_epoch()
        assert again.epoch == 3
        assert again.number_floor >= grant.number_floor
        assert [event for (event,) in _audit(tmp_path / "run")] == [
            "run_created",
            "spec_registered",
            "epoch_granted",
            "release_cut",
            "epoch_granted",
            "run_state",
            "epoch_granted",
        ]


def test_what_was_answered_survives_a_kill_in_the_middle_of_work(tmp_path: Path) -> None:
    with ServerProcess(tmp_path / "run") as server, Client(server) as client:
        learner = client.learner()
        answered, released = work_until_killed(server, learner, after=0.3)
        assert released
        server.start()
        releases = eventually(lambda: cluster.list_releases(client.channel))
        assert released <= {release.id for release in releases}
        for release in releases:
            fetch_bundle(client.channel, release.manifest)
        grant = learner.ask_for_epoch()
        assert grant.epoch == learner.grant.epoch + 1
        assert grant.number_floor >= answered


def work_until_killed(
    server: ServerProcess, learner: Learner, after: float
) -> tuple[int, set[str]]:
    """Publish and release as fast as can be; the last number and all releases answered."""
    registry = RegistryServiceStub(learner.client.channel)
    killer = threading.Timer(after, server.kill)
    number, released = learner.grant.number_floor, set[str]()
    killer.start()
    try:
        while True:
            bundle = fake_bundle(number + 1, learner.grant.epoch)
            message = to_message(bundle.manifest)
            publish = pb.PublishRequest(member=learner.member, manifest=message, blobs=bundle.blobs)
            registry.Publish(publish, timeout=5)
            number += 1
            cut = pb.CutReleaseRequest(member=learner.member, version=message.version)
            released.add(registry.CutRelease(cut, timeout=5).release.id)
    except grpc.RpcError:
        killer.join()
    return number, released


def test_a_clean_stop_leaves_no_gap_in_the_numbers(tmp_path: Path) -> None:
    with ServerProcess(tmp_path / "run") as server:
        with Client(server) as client:
            learner = client.learner()
            learner.publish(7)
            learner.membership.leave()
        assert server.terminate() == 0
        server.start()
        with Client(server) as client:
            learner = client.learner()
            assert learner.grant == cluster.Grant(2, 7)


def test_sigterm_leaves_in_time_although_watchers_hold_streams(tmp_path: Path) -> None:
    with ServerProcess(tmp_path / "run") as server, Client(server) as client:
        client.learner().publish(1)
        watchers = [client.watch() for _ in range(4)]
        eventually(lambda: all(watcher.bundles for watcher in watchers))
        registry = RegistryServiceStub(client.channel)
        unread = registry.Watch(pb.WatchRequest(policy="default"), timeout=60)
        waiting = registry.Watch(pb.WatchRequest(policy="default", after_number=1), timeout=60)
        started = time.monotonic()
        assert server.terminate() == 0
        assert time.monotonic() - started < 5
        assert list(waiting) == [], "told to go, not cut off"
        unread.cancel()


def test_an_unanswered_upload_does_not_hold_up_the_end(tmp_path: Path) -> None:
    with ServerProcess(tmp_path / "run") as server, Client(server) as client:

        def never_ends() -> Iterator[blobs_pb2.PutRequest]:
            yield blobs_pb2.PutRequest(hash=digest(b"xy"), size=2, chunk=b"x")
            client.stop.wait(20)

        upload = BlobServiceStub(client.channel).Put.future(never_ends(), timeout=60)
        eventually(lambda: client.status())
        started = time.monotonic()
        assert server.terminate() == 0
        assert time.monotonic() - started < 6
        upload.cancel()


# What cannot be started


def test_a_port_in_use_is_one_line(tmp_path: Path, server: ServerThread) -> None:
    for variable in ("PRONK_LISTEN", "PRONK_HEALTH_LISTEN", "PRONK_METRICS_LISTEN"):
        second = ServerProcess(tmp_path / variable, env={variable: str(server.address)})
        status, errors = _end_of(second)
        assert status == 2
        assert len(errors.splitlines()) == 1
        assert variable in errors
        assert "in use" in errors.lower()


def test_one_directory_has_one_server(tmp_path: Path, server: ServerThread) -> None:
    assert server.settings.run_dir is not None
    status, errors = _end_of(ServerProcess(server.settings.run_dir))
    assert status == 2
    assert "another parameter server uses" in errors


def test_another_experiment_is_refused(tmp_path: Path) -> None:
    with ServerThread(tmp_path / "run"):
        pass
    changed = ServerThread(tmp_path / "run", EXPERIMENT_YAML + "seed: 7\n")
    with pytest.raises(Misconfigured, match="another experiment"), changed:
        pass


def test_a_damaged_database_is_one_line(tmp_path: Path) -> None:
    folder = tmp_path / "run" / "server"
    folder.mkdir(parents=True)
    (folder / "registry.sqlite3").write_bytes(b"not a database" * 1000)
    with pytest.raises(Misconfigured, match=r"registry\.sqlite3"), ServerThread(tmp_path / "run"):
        pass


def test_a_flipped_bit_in_the_database_is_one_line(tmp_path: Path) -> None:
    with ServerThread(tmp_path / "run") as server, Client(server) as client:
        client.learner()
    path = tmp_path / "run" / "server" / "registry.sqlite3"
    data = bytearray(path.read_bytes())
    data[4096:4104] = b"\xff" * 8  # the header of the first table's page
    path.write_bytes(data)
    words = r"registry\.sqlite3.*(damaged|malformed)"
    with pytest.raises(Misconfigured, match=words) as error, ServerThread(tmp_path / "run"):
        pass
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("damage", ["truncate", "flip", "empty", "remove"])
def test_of_damaged_releases_the_one_before_is_served(
    tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with ServerThread(tmp_path / "run") as server, Client(server) as client:
        learner = client.learner()
        first, second = learner.publish(1), learner.publish(2)
        for bundle in (first, second):
            learner.release(bundle)
    ruin(blob_path(tmp_path / "run" / "server" / "blobs", second.manifest.weights), damage)
    with ServerThread(tmp_path / "run") as server, Client(server) as client:
        received = client.watch()
        eventually(lambda: received.bundles == [first])
        older, newer = cluster.list_releases(client.channel)
        assert fetch_bundle(client.channel, older.manifest) == first
        with pytest.raises(grpc.RpcError, match="superseded"):
            fetch_bundle(client.channel, newer.manifest)
    output = capsys.readouterr()
    assert (output.out + output.err).count("blob_damaged") == 1


@pytest.mark.parametrize("damage", ["flip", "remove"])
def test_damage_that_comes_while_it_serves_is_refused(
    tmp_path: Path, server: ServerThread, damage: str
) -> None:
    with Client(server) as client:
        learner = client.learner()
        released = learner.publish(1)
        release = learner.release(released)
        for number in range(2, 2 + KEPT_VERSIONS):  # it leaves memory
            learner.publish(number)
        assert fetch_bundle(client.channel, release.manifest) == released
        ruin(blob_path(tmp_path / "run/server/blobs", released.manifest.weights), damage)
        before = metrics.BLOBS_DAMAGED._value.get()
        for code in (grpc.StatusCode.DATA_LOSS, grpc.StatusCode.NOT_FOUND):
            with pytest.raises(grpc.RpcError) as error:
                fetch_bundle(client.channel, release.manifest)
            assert error.value.code() == code
        assert metrics.BLOBS_DAMAGED._value.get() == before + 1


def test_needs_neither_torch_nor_numpy() -> None:
    code = (
        "import sys, pronk_param_server.main;"
        "print([m for m in ('torch', 'onnx', 'onnxruntime', 'numpy') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.strip() == "[]", result.stderr


def _end_of(server: ServerProcess) -> tuple[int, str]:
    process = server.spawn()
    _, errors = process.communicate(timeout=20)
    return process.returncode, errors


def _audit(run_dir: Path) -> list[tuple[str]]:
    with sqlite3.connect(run_dir / "server" / "registry.sqlite3") as database:
        return database.execute("SELECT event FROM audit ORDER BY sequence").fetchall()
