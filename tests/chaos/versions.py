"""Hears of every version that a server serves, fetches it, and remembers its content."""

import random
import threading
from collections import defaultdict
from types import TracebackType
from typing import Self

import grpc

from pronk.transport.bundles import Fetcher
from pronk.transport.channels import connect
from pronk.transport.settings import Address, Settings
from pronk.wire.digest import digest
from pronk.wire.v1 import registry_pb2 as pb
from pronk.wire.v1.registry_pb2_grpc import RegistryServiceStub

_WATCH_SECONDS = 60.0


class Versions:
    """A watcher that asks for everything again whenever the server was away; a context manager.

    Attributes:
        contents: (policy, number) → hashes of the manifests that were served under it, which
            name the epoch and the weights' hash.
        served: (epoch, number) of the versions that were fetched, in their order.
        error: what a fetched version was refused for: its bytes are not those of its manifest.
    """

    def __init__(self, server: str, policy: str = "default") -> None:
        """Of the server at host:port."""
        host, _, port = server.rpartition(":")
        self.contents: defaultdict[tuple[str, int], set[str]] = defaultdict(set)
        self.served: list[tuple[int, int]] = []
        self.error: Exception | None = None
        self._policy = policy
        self._channel = connect(Settings(server=Address(host, int(port))))
        self._stream: grpc.Call | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="versions", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._stop.set()
        if self._stream is not None:
            self._stream.cancel()
        self._thread.join(10)
        self._channel.close()

    @property
    def twofold(self) -> dict[tuple[str, int], set[str]]:
        """Versions that were served under two contents."""
        return {key: hashes for key, hashes in self.contents.items() if len(hashes) > 1}

    def of_epoch(self, epoch: int) -> int:
        """How many of its versions were served."""
        return sum(each == epoch for each, _ in self.served)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self._read()
            except grpc.RpcError:
                pass  # the server is away, or the watch is over
            except Exception as error:
                self.error = error
                return
            self._stop.wait(random.uniform(0.05, 0.1))

    def _read(self) -> None:
        request = pb.WatchRequest(policy=self._policy)
        stream = RegistryServiceStub(self._channel).Watch(request, timeout=_WATCH_SECONDS)
        self._stream = stream
        fetcher = Fetcher(self._channel)
        sent: dict[str, bytes] = {}
        for answer in stream:
            if self._stop.is_set():
                return
            sent |= answer.blobs
            version = answer.manifest.version
            # What was announced counts, even if it was superseded before it could be fetched.
            self.contents[version.policy, version.number].add(digest(answer.manifest.json.encode()))
            try:
                fetcher.fetch(answer.manifest, sent)
            except grpc.RpcError as error:
                if error.code() != grpc.StatusCode.NOT_FOUND:  # type: ignore[attr-defined]
                    raise
            else:
                self.served.append((version.epoch, version.number))
            names = set(answer.manifest.blobs)
            sent = {name: blob for name, blob in sent.items() if name in names}
