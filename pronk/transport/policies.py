"""Versions of policies on their way: learner → parameter server → whoever acts with them."""

import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import NamedTuple

import grpc

from pronk.errors import Fenced, Misconfigured
from pronk.policy.bundle import Bundle
from pronk.policy.manifest import Manifest, from_json, to_json
from pronk.telemetry import logs, metrics
from pronk.transport.channels import BLOB_SECONDS, CALL_SECONDS, CHUNK_BYTES, INLINE_BYTES
from pronk.transport.cluster import fenced_or
from pronk.transport.retry import Reminder, code_of, details_of, is_transient, until_answered
from pronk.wire.v1 import blobs_pb2
from pronk.wire.v1 import registry_pb2 as pb
from pronk.wire.v1.blobs_pb2_grpc import BlobServiceStub
from pronk.wire.v1.registry_pb2_grpc import RegistryServiceStub
from pronk.wire.weights import digest

_WATCH_SECONDS = 300.0
"""A watch is opened anew this often, so that a connection that died unseen ends."""

_STOP_SECONDS = 0.2
"""How often waiting threads look whether they should end."""

OnBundle = Callable[[Bundle], None]


class BadBlob(RuntimeError):  # noqa: N818
    """Bytes that do not have the hash they were asked for by."""


class PolicyPublisher:
    """Publishes a learner's versions.

    Args:
        channel: to the parameter server.
        member: the learner's id; it must hold the epoch of what it publishes.
        stop: interrupts waiting for an unreachable server.
    """

    def __init__(self, channel: grpc.Channel, member: str, stop: threading.Event) -> None:
        self._registry = RegistryServiceStub(channel)
        self._blobs = BlobServiceStub(channel)
        self._member = member
        self._stop = stop
        self._lock = threading.Lock()
        self._last: Bundle | None = None
        # Hashes that the server is believed to hold: the graph and the probe travel once.
        self._stored: frozenset[str] = frozenset()

    def publish(self, bundle: Bundle) -> bool:
        """Make `bundle` the newest version of its policy.

        Returns:
            False when it was not published: stopped, or refused, which is logged and counted.

        Raises:
            Fenced: another learner holds a newer epoch.
        """
        policy = bundle.manifest.policy
        started = time.perf_counter()
        with self._lock:
            try:
                done = until_answered(
                    lambda: self._attempt(bundle),
                    self._stop,
                    f"the parameter server, to publish policy {policy!r}",
                    again=self._again,
                )
            except grpc.RpcError as error:
                metrics.PUBLISH_FAILURES.labels(policy).inc()
                logs.get().error("publish_refused", policy=policy, why=details_of(error))
                return False
            if done is None:
                return False
            self._last = bundle
        metrics.PUBLISH_SECONDS.labels(policy).observe(time.perf_counter() - started)
        return True

    def reconcile(self, incarnation: str, newest: Mapping[str, pb.Version]) -> None:
        """Publish the last version again where the server holds an older one or none.

        For `Membership.on_newest`: a restarted server can serve new actors before the next update.
        """
        if not self._lock.acquire(blocking=False):
            return  # being published right now
        try:
            last = self._last
            if last is None:
                return
            held = newest.get(last.manifest.policy)
            if held is not None and held.number >= last.manifest.number:
                return
            self._attempt(last)
            logs.get().info(
                "published_again", number=last.manifest.number, server_incarnation=incarnation
            )
        except (grpc.RpcError, Fenced) as error:
            self._again(error)
            logs.get().warning("not_published_again", why=details_of(error))
        finally:
            self._lock.release()

    def _attempt(self, bundle: Bundle) -> bool:
        message = to_message(bundle.manifest)
        missing = {name: b for name, b in bundle.blobs.items() if name not in self._stored}
        if sum(map(len, missing.values())) > INLINE_BYTES:
            for name, blob in missing.items():
                self._blobs.Put(_pieces(name, blob), timeout=BLOB_SECONDS)
            missing = {}
        request = pb.PublishRequest(member=self._member, manifest=message, blobs=missing)
        try:
            self._registry.Publish(request, timeout=CALL_SECONDS)
        except grpc.RpcError as error:
            raise fenced_or(error) from None
        self._stored = frozenset(message.blobs)
        return True

    def _again(self, error: BaseException) -> bool:
        if code_of(error) == grpc.StatusCode.NOT_FOUND:
            self._stored = frozenset()  # the server restarted without the blobs
            return True
        return is_transient(error)


class PolicyWatcher:
    """Fetches the newest version of a policy, again and again, on threads of its own.

    One thread reads the news and keeps only the newest, so that what the transport holds back while
    the process is busy (or stopped) is skipped; the other fetches and calls back.

    Args:
        channel: to the parameter server.
        policy: which.
        on_bundle: called with every version fetched; versions that were superseded meanwhile are
            skipped. While it runs, nothing is fetched.
        stop: ends the threads.
    """

    def __init__(
        self, channel: grpc.Channel, policy: str, on_bundle: OnBundle, stop: threading.Event
    ) -> None:
        self._registry = RegistryServiceStub(channel)
        self._fetcher = _Fetcher(channel)
        self._policy = policy
        self._on_bundle = on_bundle
        self._stop = stop
        self._after = 0
        self._stream: grpc.Call | None = None
        self._has_news = threading.Condition()
        self._news: _News | None = None
        self._threads = (
            threading.Thread(target=self._read, name=f"watch-{policy}", daemon=True),
            threading.Thread(target=self._fetch, name=f"fetch-{policy}", daemon=True),
        )

    def start(self) -> None:
        """Begin to watch."""
        for thread in self._threads:
            thread.start()

    def join(self, timeout: float = CALL_SECONDS) -> None:
        """Wait for the threads to end after `stop` was set."""
        for thread in self._threads:
            thread.join(timeout)

    def _read(self) -> None:
        reminder = Reminder()
        while not self._stop.is_set():
            try:
                self._read_stream()
            except grpc.RpcError as error:
                expired = code_of(error) == grpc.StatusCode.DEADLINE_EXCEEDED
                if not expired and not self._stop.is_set() and reminder.due():
                    logs.get().warning("watch_broken", policy=self._policy, why=details_of(error))
            # A server that comes back is asked by everybody at once: spread it.
            self._stop.wait(random.uniform(0.1, 0.5))  # noqa: S311

    def _read_stream(self) -> None:
        request = pb.WatchRequest(policy=self._policy, after_number=self._after)
        stream = self._registry.Watch(request, timeout=_WATCH_SECONDS)
        self._stream = stream
        sent: dict[str, bytes] = {}
        for answer in stream:
            manifest = answer.manifest
            self._after = manifest.version.number
            # A blob is sent once: it may have come with a version that nobody looks at any more.
            sent = {name: blob for name, blob in sent.items() if name in manifest.blobs}
            sent |= answer.blobs
            with self._has_news:
                self._news = _News(manifest, dict(sent))
                self._has_news.notify()

    def _fetch(self) -> None:
        while not self._stop.is_set():
            with self._has_news:
                self._has_news.wait_for(lambda: self._news, timeout=_STOP_SECONDS)
                news, self._news = self._news, None
            if news is not None:
                self._adopt(news)
        if self._stream is not None:
            self._stream.cancel()

    def _adopt(self, news: "_News") -> None:
        """Fetch and call back; what fails is left to the next version, or to `_read`'s next try."""
        try:
            bundle = self._fetcher.fetch(news.manifest, news.sent)
        except grpc.RpcError as error:
            if code_of(error) != grpc.StatusCode.NOT_FOUND:  # else superseded meanwhile
                self._retry(news, details_of(error))
            return
        except (BadBlob, Misconfigured) as error:
            self._retry(news, str(error))
            return
        try:
            self._on_bundle(bundle)
        except Exception:
            logs.get().exception("on_bundle_failed", policy=self._policy)

    def _retry(self, news: "_News", why: str) -> None:
        logs.get().warning("fetch_failed", policy=self._policy, why=why)
        self._stop.wait(1.0)
        with self._has_news:
            self._news = self._news or news


class _News(NamedTuple):
    """A version, and those of its blobs that came with it."""

    manifest: pb.PolicyManifest
    sent: Mapping[str, bytes]


class _Fetcher:
    """Fetches bundles; keeps the graph and the probe, which seldom change."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._stub = BlobServiceStub(channel)
        self._kept: dict[str, bytes] = {}

    def fetch(
        self, message: pb.PolicyManifest, sent: Mapping[str, bytes] = MappingProxyType({})
    ) -> Bundle:
        manifest = from_json(message.json)
        blobs = {name: self._kept.get(name) or self._take(name, sent) for name in message.blobs}
        self._kept = {name: blob for name, blob in blobs.items() if name != manifest.weights}
        return Bundle.from_blobs(manifest, blobs)

    def _take(self, name: str, sent: Mapping[str, bytes]) -> bytes:
        blob = sent[name] if name in sent else self._get(name)
        if digest(blob) != name:
            raise BadBlob(f"blob {name} arrived with other bytes")
        return blob

    def _get(self, name: str) -> bytes:
        request = blobs_pb2.GetRequest(hash=name)
        return b"".join(piece.chunk for piece in self._stub.Get(request, timeout=BLOB_SECONDS))


def fetch_bundle(channel: grpc.Channel, message: pb.PolicyManifest) -> Bundle:
    """The policy of a manifest, for example of a release.

    Raises:
        grpc.RpcError: NOT_FOUND when it was superseded; others when the server cannot be reached.
        BadBlob: the bytes are not those that the manifest names.
    """
    return _Fetcher(channel).fetch(message)


def to_message(manifest: Manifest) -> pb.PolicyManifest:
    """The wire message of a manifest."""
    return pb.PolicyManifest(
        version=pb.Version(policy=manifest.policy, epoch=manifest.epoch, number=manifest.number),
        json=to_json(manifest),
        blobs=manifest.blobs,
        frames=manifest.frames,
    )


def _pieces(name: str, content: bytes) -> Iterator[blobs_pb2.PutRequest]:
    """A blob in messages; hash and size stand in the first."""
    yield blobs_pb2.PutRequest(hash=name, size=len(content), chunk=content[:CHUNK_BYTES])
    for start in range(CHUNK_BYTES, len(content), CHUNK_BYTES):
        yield blobs_pb2.PutRequest(chunk=content[start : start + CHUNK_BYTES])
