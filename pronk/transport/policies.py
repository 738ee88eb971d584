"""Versions of policies on their way: learner → parameter server → whoever acts with them."""

import random
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import NamedTuple

import grpc

from pronk.errors import Fenced, Misconfigured
from pronk.policy.bundle import Bundle
from pronk.policy.manifest import to_json
from pronk.telemetry import logs, metrics
from pronk.transport.bundles import BadBlob, Fetcher, to_message, to_pieces
from pronk.transport.channels import BLOB_SECONDS, CALL_SECONDS, INLINE_BYTES
from pronk.transport.cluster import fenced_or
from pronk.transport.membership import Newest
from pronk.transport.retry import Reminder, code_of, details_of, is_transient, until_answered
from pronk.wire.digest import digest
from pronk.wire.v1 import registry_pb2 as pb
from pronk.wire.v1.blobs_pb2_grpc import BlobServiceStub
from pronk.wire.v1.registry_pb2_grpc import RegistryServiceStub

_WATCH_SECONDS = 300.0
"""A watch is opened anew this often, so that a connection that died unseen ends."""

_STOP_SECONDS = 0.2
"""How often waiting threads look whether they should end."""

_RETRY_SECONDS = 1.0
_BEAT_SECONDS = 1.0

OnBundle = Callable[[Bundle], None]
OnError = Callable[[Exception], None]


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
        self._incarnation = ""
        self._reminder = Reminder()

    def publish(self, bundle: Bundle, beat: Callable[[], None] = lambda: None) -> bool:
        """Make `bundle` the newest version of its policy; `beat` feeds liveness meanwhile.

        Returns:
            False when it was not published: stopped, or refused, which is logged and counted.

        Raises:
            Fenced: another learner holds a newer epoch.
        """
        policy = bundle.manifest.policy
        started = time.perf_counter()
        while not self._lock.acquire(timeout=_BEAT_SECONDS):
            beat()  # the last version is being published again
        try:
            done = until_answered(
                lambda: self._attempt(bundle, beat),
                self._stop,
                f"the parameter server, to publish policy {policy!r}",
                again=self._again,
                beat=beat,
            )
            if done is None:
                return False
            self._last = bundle
        except grpc.RpcError as error:
            metrics.PUBLISH_FAILURES.labels(policy).inc()
            logs.get().error("publish_refused", policy=policy, why=details_of(error))
            return False
        finally:
            self._lock.release()
        metrics.PUBLISH_SECONDS.labels(policy).observe(time.perf_counter() - started)
        return True

    def reconcile(self, incarnation: str, newest: Newest) -> None:
        """Publish the last version again where the server holds an older one, another or none.

        For `Membership.on_newest`: a restarted server can serve new actors before the next update.
        """
        if not self._lock.acquire(blocking=False):
            return  # being published right now
        try:
            last = self._last
            if last is None:
                return
            held = newest.get(last.manifest.policy)
            if held is not None and held.version.number > last.manifest.number:
                return
            if held is not None and held.hash == digest(to_json(last.manifest).encode()):
                return
            if incarnation != self._incarnation:
                self._incarnation, self._stored = incarnation, frozenset()
            self._attempt(last)
            logs.get().info(
                "published_again", number=last.manifest.number, server_incarnation=incarnation
            )
        except (grpc.RpcError, Fenced) as error:
            self._again(error)
            if self._reminder.due():
                logs.get().warning("not_published_again", why=details_of(error))
        finally:
            self._lock.release()

    def _attempt(self, bundle: Bundle, beat: Callable[[], None] = lambda: None) -> bool:
        message = to_message(bundle.manifest)
        missing = {name: b for name, b in bundle.blobs.items() if name not in self._stored}
        if sum(map(len, missing.values())) > INLINE_BYTES:
            for name, blob in missing.items():
                self._put(name, blob, beat)
            missing = {}
        request = pb.PublishRequest(member=self._member, manifest=message, blobs=missing)
        try:
            self._registry.Publish(request, timeout=CALL_SECONDS)
        except grpc.RpcError as error:
            raise fenced_or(error) from None
        self._stored = frozenset(message.blobs)
        return True

    def _put(self, name: str, blob: bytes, beat: Callable[[], None]) -> None:
        call = self._blobs.Put.future(to_pieces(name, blob), timeout=BLOB_SECONDS)
        while True:
            with suppress(grpc.FutureTimeoutError):
                call.result(timeout=_BEAT_SECONDS)
                return
            beat()

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
        on_error: called with what should not happen and ends one of the threads.
        stop: ends the threads.
    """

    def __init__(
        self,
        channel: grpc.Channel,
        policy: str,
        on_bundle: OnBundle,
        on_error: OnError,
        stop: threading.Event,
    ) -> None:
        self._registry = RegistryServiceStub(channel)
        self._fetcher = Fetcher(channel)
        self._policy = policy
        self._on_bundle = on_bundle
        self._on_error = on_error
        self._stop = stop
        self._over = threading.Event()
        self._adopted = 0
        self._reminder = Reminder()
        self._stream: grpc.Call | None = None
        self._has_news = threading.Condition()
        self._news: _News | None = None
        self._threads = [
            threading.Thread(target=self._run, args=[work], name=f"{name}-{policy}", daemon=True)
            for name, work in (("watch", self._read), ("fetch", self._fetch))
        ]

    def start(self) -> None:
        """Begin to watch."""
        for thread in self._threads:
            thread.start()

    def join(self, timeout: float = CALL_SECONDS) -> None:
        """End the threads, whether `stop` is set or not, and wait for them."""
        self._over.set()
        for thread in self._threads:
            thread.join(timeout)

    def _is_over(self) -> bool:
        return self._over.is_set() or self._stop.is_set()

    def _run(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as error:
            self._on_error(error)

    def _read(self) -> None:
        while not self._is_over():
            try:
                self._read_stream()
            except grpc.RpcError as error:
                expired = code_of(error) == grpc.StatusCode.DEADLINE_EXCEEDED
                if not expired and not self._is_over() and self._reminder.due():
                    logs.get().warning("watch_broken", policy=self._policy, why=details_of(error))
            # A server that comes back is asked by everybody at once: spread it.
            self._stop.wait(random.uniform(0.1, 0.5))  # noqa: S311

    def _read_stream(self) -> None:
        request = pb.WatchRequest(policy=self._policy, after_number=self._adopted)
        stream = self._registry.Watch(request, timeout=_WATCH_SECONDS)
        self._stream = stream
        if self._is_over():
            stream.cancel()
        sent: dict[str, bytes] = {}
        for answer in stream:
            # A blob is sent once: it may have come with a version that nobody looks at any more.
            names = answer.manifest.blobs
            sent = {name: blob for name, blob in sent.items() if name in names}
            sent |= answer.blobs
            with self._has_news:
                self._news = _News(answer.manifest, dict(sent), time.perf_counter())
                self._has_news.notify()

    def _fetch(self) -> None:
        while not self._is_over():
            with self._has_news:
                self._has_news.wait_for(lambda: self._news, timeout=_STOP_SECONDS)
                news, self._news = self._news, None
            if news is not None and news.manifest.version.number > self._adopted:
                self._adopt(news)
        if self._stream is not None:
            self._stream.cancel()

    def _adopt(self, news: "_News") -> None:
        try:
            bundle = self._fetcher.fetch(news.manifest, news.sent)
        except (grpc.RpcError, BadBlob, Misconfigured) as error:
            # Superseded meanwhile: the next version is on its way.
            if code_of(error) != grpc.StatusCode.NOT_FOUND and self._reminder.due():
                logs.get().warning("fetch_failed", policy=self._policy, why=details_of(error))
            self._try_again(news)
            return
        self._adopted = news.manifest.version.number
        metrics.FETCH_SECONDS.labels(self._policy).observe(time.perf_counter() - news.arrived)
        try:
            self._on_bundle(bundle)
        except Exception:
            logs.get().exception("on_bundle_failed", policy=self._policy)

    def _try_again(self, news: "_News") -> None:
        """In a while, unless there is something newer."""
        with self._has_news:
            self._has_news.wait_for(lambda: self._news or self._is_over(), timeout=_RETRY_SECONDS)
            self._news = self._news or news


class _News(NamedTuple):
    """A version, those of its blobs that came with it, and when it came (`perf_counter`)."""

    manifest: pb.PolicyManifest
    sent: Mapping[str, bytes]
    arrived: float


def fetch_bundle(channel: grpc.Channel, message: pb.PolicyManifest) -> Bundle:
    """The policy of a manifest, for example of a release; see `Fetcher.fetch`."""
    return Fetcher(channel).fetch(message)
