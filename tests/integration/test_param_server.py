"""A parameter server over real gRPC: publishing, watching, epochs, run state, episodes."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from cluster_clients import LEARNER, TRAIN, Client
from param_servers import (
    SPEC,
    TWO_POLICIES_YAML,
    ServerThread,
    eventually,
    fake_bundle,
)
from pronk_param_server import blob_service

from pronk.errors import Fenced
from pronk.policy.bundle import Bundle
from pronk.telemetry import metrics
from pronk.transport import cluster
from pronk.transport.bundles import to_message
from pronk.transport.channels import CHUNK_BYTES, INLINE_BYTES
from pronk.transport.policies import fetch_bundle
from pronk.wire.digest import digest
from pronk.wire.v1 import blobs_pb2
from pronk.wire.v1 import registry_pb2 as pb
from pronk.wire.v1.blobs_pb2_grpc import BlobServiceStub
from pronk.wire.v1.registry_pb2_grpc import RegistryServiceStub


def test_its_disk_is_known_before_anything_was_stored(tmp_path: Path) -> None:
    metrics.DISK_BYTES.set(0)
    with ServerThread(tmp_path / "run"):
        eventually(lambda: metrics.DISK_BYTES._value.get() > 0)


# Publishing and watching


def test_what_is_published_arrives(client: Client) -> None:
    learner = client.learner()
    early = client.watch()
    bundle = learner.publish(1)
    late = client.watch()
    eventually(lambda: early.bundles and late.bundles)
    assert early.bundles == late.bundles == [bundle]


@pytest.mark.parametrize("size", [0, INLINE_BYTES, 3 * CHUNK_BYTES + 17])
def test_policies_of_every_size_arrive(client: Client, size: int) -> None:
    learner = client.learner()
    received = client.watch()
    bundle = learner.publish(1, weights=b"\x01" * size)
    eventually(lambda: received.bundles)
    assert received.bundles == [bundle]
    assert fetch_bundle(client.channel, to_message(bundle.manifest)) == bundle


def test_a_slow_watcher_skips_and_holds_back_nobody(client: Client) -> None:
    learner = client.learner()
    go_on = threading.Event()
    slow: list[int] = []

    def dawdle(bundle: Bundle) -> None:
        slow.append(bundle.manifest.number)
        go_on.wait(20)

    client.call_back(dawdle)
    fast = client.watch()
    learner.publish(1)
    eventually(lambda: slow)
    for number in range(2, 200):
        learner.publish(number, weights=number.to_bytes(2, "big") * 10_000)
    eventually(lambda: fast.numbers[-1:] == [199])
    go_on.set()
    eventually(lambda: slow[-1] == 199)
    assert slow == sorted(set(slow))
    assert len(slow) <= 3


def test_blobs_of_superseded_versions_are_dropped(client: Client) -> None:
    learner = client.learner()
    bundles = [learner.publish(number) for number in range(1, 8)]
    with pytest.raises(grpc.RpcError) as error:
        fetch_bundle(client.channel, to_message(bundles[0].manifest))
    assert error.value.code() == grpc.StatusCode.NOT_FOUND
    assert fetch_bundle(client.channel, to_message(bundles[-1].manifest)) == bundles[-1]


def test_publishing_twice_is_once_and_never_two_contents(client: Client) -> None:
    learner = client.learner()
    bundle = learner.publish(1)
    assert learner.publisher.publish(bundle)
    assert not learner.publisher.publish(fake_bundle(1, 1, weights=b"other"))
    received = client.watch()
    eventually(lambda: received.bundles)
    assert received.bundles == [bundle]


def test_a_version_whose_blobs_are_missing_is_refused(client: Client) -> None:
    learner = client.learner()
    request = pb.PublishRequest(member=learner.member, manifest=to_message(fake_bundle(1).manifest))
    with pytest.raises(grpc.RpcError) as error:
        RegistryServiceStub(client.channel).Publish(request, timeout=5)
    assert error.value.code() == grpc.StatusCode.NOT_FOUND
    assert not client.status().newest


@pytest.mark.parametrize("inline", [True, False])
def test_bytes_that_do_not_have_their_hash_are_refused(client: Client, inline: bool) -> None:
    learner = client.learner()
    manifest = to_message(fake_bundle(1).manifest)
    wrong = dict.fromkeys(manifest.blobs, b"wrong")

    def send() -> None:
        if inline:
            request = pb.PublishRequest(member=learner.member, manifest=manifest, blobs=wrong)
            RegistryServiceStub(client.channel).Publish(request, timeout=5)
        else:
            piece = blobs_pb2.PutRequest(hash=manifest.blobs[0], size=5, chunk=b"wrong")
            BlobServiceStub(client.channel).Put(iter([piece]), timeout=5)

    with pytest.raises(grpc.RpcError) as error:
        send()
    assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert not client.status().newest


@pytest.mark.parametrize(
    "pieces",
    [
        [],
        [blobs_pb2.PutRequest(chunk=b"no name")],
        [blobs_pb2.PutRequest(hash=digest(b"x"), size=1 << 40, chunk=b"x")],
        [blobs_pb2.PutRequest(hash=digest(b"xy"), size=2, chunk=b"x")],
        [
            blobs_pb2.PutRequest(hash=digest(b"x"), size=1),
            blobs_pb2.PutRequest(),
            blobs_pb2.PutRequest(chunk=b"x"),
        ],
    ],
)
def test_malformed_uploads_are_refused(client: Client, pieces: list[blobs_pb2.PutRequest]) -> None:
    with pytest.raises(grpc.RpcError) as error:
        BlobServiceStub(client.channel).Put(iter(pieces), timeout=5)
    assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize("limit", ["PIECE_SECONDS", "BLOB_SECONDS"])
def test_an_upload_that_does_not_get_on_is_ended(
    client: Client, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    monkeypatch.setattr(blob_service, limit, 0.2)

    def never_ends() -> Iterator[blobs_pb2.PutRequest]:
        yield blobs_pb2.PutRequest(hash=digest(b"xy"), size=2, chunk=b"x")
        client.stop.wait(20)

    with pytest.raises(grpc.RpcError, match="does not get on"):
        BlobServiceStub(client.channel).Put(never_ends(), timeout=15)


def test_a_watch_needs_a_deadline_and_a_policy(client: Client) -> None:
    registry = RegistryServiceStub(client.channel)
    for request, timeout in (
        (pb.WatchRequest(policy="default"), None),
        (pb.WatchRequest(policy="default"), 1e6),
        (pb.WatchRequest(policy="green"), 5),
    ):
        with pytest.raises(grpc.RpcError) as error:
            next(registry.Watch(request, timeout=timeout))
        assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT


def test_requests_that_are_too_large_are_refused(client: Client) -> None:
    with pytest.raises(grpc.RpcError) as error:
        RegistryServiceStub(client.channel).Leave(pb.LeaveRequest(member="x" * 100_000), timeout=5)
    assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    with pytest.raises(grpc.RpcError) as error:
        RegistryServiceStub(client.channel).Leave(
            pb.LeaveRequest(member="x" * (5 << 20)), timeout=5
        )
    assert error.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED


# Learners


def test_an_older_epoch_is_fenced_off(client: Client) -> None:
    old = client.learner()
    bundle = old.publish(1)
    old.membership.leave()
    new = client.learner()
    assert (new.grant.epoch, new.grant.number_floor) == (2, 1)
    with pytest.raises(Fenced):
        old.publish(2)
    with pytest.raises(Fenced):
        old.release(bundle)
    with pytest.raises(Fenced):
        old.finish("done")
    new.publish(2)


def test_another_learner_waits_for_a_living_one(client: Client) -> None:
    first = client.learner()
    second = client.join(LEARNER)
    granted: list[cluster.Grant | None] = []
    waiting = threading.Thread(
        target=lambda: granted.append(
            cluster.grant_epoch(client.channel, second.member, "default", client.stop)
        )
    )
    waiting.start()
    time.sleep(1.0)
    assert not granted
    first.membership.leave()
    waiting.join(10)
    assert granted == [cluster.Grant(2, 0)]


def test_the_wait_for_an_epoch_can_be_stopped(client: Client) -> None:
    client.learner()
    second = client.join(LEARNER)
    threading.Timer(0.3, client.stop.set).start()
    assert cluster.grant_epoch(client.channel, second.member, "default", client.stop) is None


def test_spec_is_waited_for(client: Client) -> None:
    threading.Timer(0.3, lambda: client.join(TRAIN)).start()
    assert cluster.wait_for_spec(client.channel, client.stop) == SPEC


# Run state and episodes


def test_finished_only_once_all_policies_finished(tmp_path: Path) -> None:
    server = ServerThread(tmp_path / "run", TWO_POLICIES_YAML)
    with server, Client(server) as client:
        red = client.learner("red")
        blue = client.learner("blue")
        actor = client.join(TRAIN, "red")
        red.finish("red is done")
        assert client.status().run_state == pb.RUN_STATE_RUNNING
        blue.finish("blue is done")
        eventually(lambda: actor.finished)
        assert actor.reason == "blue is done"
        assert client.status().actor_demand == 0.0


def test_duplicate_reports_count_once(client: Client) -> None:
    actor = client.join(TRAIN)
    version = pb.Version(policy="default", epoch=1, number=1)
    start = pb.EpisodeStart(version=version, slot=0, number=0)
    end = pb.EpisodeEnd(version=version, slot=0, number=0, steps=3, **{"return": 3.0})
    reporter = cluster.EpisodeReporter(client.channel, actor.member)
    assert reporter.send([start], [], client.stop)
    assert reporter.send([], [end], client.stop)
    request = pb.ReportEpisodesRequest(member=actor.member, sequence=2, ends=[end])
    RegistryServiceStub(client.channel).ReportEpisodes(request, timeout=5)
    [summary] = client.status().episodes
    assert (summary.started, summary.finished, summary.return_mean) == (1, 1, 3.0)
    assert reporter.send([pb.EpisodeStart(version=version, slot=0, number=1)], [], client.stop)
    actor.leave()
    [summary] = client.status().episodes
    assert (summary.started, summary.finished, summary.lost) == (2, 1, 1)
