"""Policies ⇄ messages and blobs."""

from collections.abc import Iterator, Mapping
from types import MappingProxyType

import grpc

from pronk.policy.bundle import Bundle
from pronk.policy.manifest import Manifest, from_json, to_json
from pronk.transport.channels import BLOB_SECONDS, CHUNK_BYTES
from pronk.wire.digest import digest
from pronk.wire.v1 import blobs_pb2
from pronk.wire.v1 import registry_pb2 as pb
from pronk.wire.v1.blobs_pb2_grpc import BlobServiceStub


class BadBlob(RuntimeError):  # noqa: N818
    """What arrived is not what was asked for."""


class Fetcher:
    """Fetches bundles; keeps the graph and the probe, which seldom change."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._stub = BlobServiceStub(channel)
        self._kept: dict[str, bytes] = {}

    def fetch(
        self, message: pb.PolicyManifest, sent: Mapping[str, bytes] = MappingProxyType({})
    ) -> Bundle:
        """The policy of a manifest.

        Args:
            message: what to fetch.
            sent: blobs that are at hand already, by hash.

        Raises:
            grpc.RpcError: NOT_FOUND when it was superseded; others when the server is unreachable.
            BadBlob: the manifest or the bytes are not those of the version.
            Misconfigured: the manifest is not of this format.
        """
        manifest = from_json(message.json)
        if _identity(manifest) != message.version or manifest.blobs != tuple(message.blobs):
            raise BadBlob(f"the manifest of {message.version} is that of another version")
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


def to_message(manifest: Manifest) -> pb.PolicyManifest:
    """The wire message of a manifest."""
    return pb.PolicyManifest(
        version=_identity(manifest),
        json=to_json(manifest),
        blobs=manifest.blobs,
        frames=manifest.frames,
    )


def _identity(manifest: Manifest) -> pb.Version:
    return pb.Version(policy=manifest.policy, epoch=manifest.epoch, number=manifest.number)


def to_pieces(name: str, blob: bytes) -> Iterator[blobs_pb2.PutRequest]:
    """A blob in messages; hash and size stand in the first."""
    yield blobs_pb2.PutRequest(hash=name, size=len(blob), chunk=blob[:CHUNK_BYTES])
    for start in range(CHUNK_BYTES, len(blob), CHUNK_BYTES):
        yield blobs_pb2.PutRequest(chunk=blob[start : start + CHUNK_BYTES])
