"""Versions on their way, when what is on the way is wrong."""

import asyncio
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from cluster_clients import Client, Learner, Received
from param_servers import ServerThread, eventually, fake_bundle
from pronk_param_server import blob_service

from pronk.policy.bundle import Bundle
from pronk.telemetry import metrics
from pronk.transport.bundles import BadBlob, Fetcher, to_message
from pronk.transport.channels import INLINE_BYTES
from pronk.transport.policies import PolicyPublisher, PolicyWatcher, fetch_bundle
from pronk.wire.v1 import registry_pb2 as pb
from pronk.wire.v1.registry_pb2_grpc import RegistryServiceStub


def publish(learner: Learner, manifest: pb.PolicyManifest, bundle: Bundle) -> None:
    """Publish under a manifest that need not be the bundle's."""
    request = pb.PublishRequest(member=learner.member, manifest=manifest, blobs=bundle.blobs)
    RegistryServiceStub(learner.client.channel).Publish(request, timeout=5)


def lying(number: int, **fields: object) -> tuple[pb.PolicyManifest, Bundle]:
    bundle = fake_bundle(number)
    message = to_message(bundle.manifest)
    message.MergeFrom(pb.PolicyManifest(**fields))  # type: ignore[arg-type]
    return message, bundle


@pytest.mark.parametrize(
    "fields",
    [
        {"json": "no json"},
        {"json": "{}"},
        {"json": to_message(fake_bundle(7).manifest).json},
        {"json": to_message(fake_bundle(1, weights=b"others").manifest).json},
    ],
)
def test_manifests_that_lie_are_skipped(client: Client, fields: dict[str, object]) -> None:
    learner = client.learner()
    received = client.watch()
    message, bundle = lying(1, **fields)
    publish(learner, message, bundle)
    with pytest.raises((BadBlob, ValueError)):
        fetch_bundle(client.channel, message)
    good = learner.publish(2)
    eventually(lambda: received.bundles)
    assert received.bundles == [good]


def test_a_callback_that_fails_does_not_end_the_watch(client: Client) -> None:
    learner = client.learner()
    seen: list[int] = []

    def fail(bundle: Bundle) -> None:
        seen.append(bundle.manifest.number)
        raise RuntimeError("cannot act with it")

    client.call_back(fail)
    learner.publish(1)
    eventually(lambda: seen == [1])
    learner.publish(2)
    eventually(lambda: seen == [1, 2])


def test_a_watcher_ends_with_stop_and_without(client: Client) -> None:
    for set_stop in (True, False):
        stop = threading.Event()
        watcher = PolicyWatcher(client.channel, "default", Received(), client.failures.append, stop)
        before = set(threading.enumerate())
        watcher.start()
        own = {each for each in set(threading.enumerate()) - before if "default" in each.name}
        assert len(own) == 2
        eventually(lambda watcher=watcher: watcher._stream)
        if set_stop:
            stop.set()
        started = time.monotonic()
        watcher.join()
        assert time.monotonic() - started < 2
        assert not any(thread.is_alive() for thread in own)


def test_the_graph_travels_once(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    learner = client.learner()
    received = client.watch()
    sizes: list[int] = []
    original = learner.publisher._registry.Publish

    def record(request: pb.PublishRequest, timeout: float) -> pb.PublishResponse:
        sizes.append(sum(map(len, request.blobs.values())))
        return original(request, timeout=timeout)

    monkeypatch.setattr(learner.publisher._registry, "Publish", record)
    graph = b"g" * 50_000
    for number in (1, 2, 3):
        bundle = fake_bundle(number, graph=graph)
        assert learner.publisher.publish(bundle)
        eventually(lambda bundle=bundle: received.bundles[-1:] == [bundle])
    assert sizes[0] > 50_000 > 100 > sizes[1] == sizes[2]


def test_a_blob_that_is_long_on_its_way_is_no_deadlock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = blob_service.BlobService.Put

    async def slowly(*arguments: Any) -> Any:
        await asyncio.sleep(2.5)
        return await put(*arguments)

    monkeypatch.setattr(blob_service.BlobService, "Put", slowly)
    beats: list[None] = []
    with ServerThread(tmp_path / "run") as server, Client(server) as client:
        learner = client.learner()
        large = fake_bundle(1, learner.grant.epoch, weights=b"w" * (INLINE_BYTES + 1))
        assert learner.publisher.publish(large, lambda: beats.append(None))
    assert len(beats) >= 2


def test_what_should_not_happen_to_a_watcher_is_told(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise KeyError("not foreseen")

    monkeypatch.setattr(Fetcher, "fetch", fail)
    client.watch()
    client.learner().publish(1)
    eventually(lambda: client.failures)
    assert str(client.failures[0]) == "'not foreseen'"


def test_publishing_can_be_stopped_while_the_server_is_away(tmp_path: Path) -> None:
    server = ServerThread(tmp_path / "run")  # never started
    stop = threading.Event()
    with server.connect() as channel:
        threading.Timer(0.3, stop.set).start()
        started = time.monotonic()
        assert not PolicyPublisher(channel, "learner-x", stop).publish(fake_bundle(1))
        assert time.monotonic() - started < 3


def test_a_refused_version_is_counted_and_training_goes_on(client: Client) -> None:
    learner = client.learner()
    learner.publish(1)
    failures = metrics.PUBLISH_FAILURES.labels("default")._value
    before = failures.get()
    assert not learner.publisher.publish(fake_bundle(1, weights=b"other"))
    assert failures.get() == before + 1
    learner.publish(2)
