"""The blob service: immutable bytes by hash, in chunks."""

# ruff: noqa: N802 - gRPC names the methods.

import asyncio
import hashlib
from collections.abc import AsyncIterator

from pronk.transport.channels import BLOB_SECONDS, CHUNK_BYTES
from pronk.wire.v1 import blobs_pb2
from pronk.wire.v1.blobs_pb2_grpc import BlobServiceServicer
from pronk_param_server.blob_files import tell_damage
from pronk_param_server.blobs import Blobs, check_hash
from pronk_param_server.calls import LARGE_BYTES, Context, answered, check_size, streamed
from pronk_param_server.refusal import DATA_LOSS, INVALID, TOO_SLOW, Refusal
from pronk_param_server.writer import Writer

PIECE_SECONDS = 10.0
"""Longest wait for the next piece of a blob."""


class BlobService(BlobServiceServicer):
    """Serves `blobs`; hashing happens on the writer thread."""

    def __init__(self, blobs: Blobs, writer: Writer) -> None:
        self._blobs = blobs
        self._writer = writer

    @answered
    async def Put(
        self, request_iterator: AsyncIterator[blobs_pb2.PutRequest], context: Context
    ) -> blobs_pb2.PutResponse:
        """Store a blob."""
        pieces = _in_time(request_iterator)
        first = await anext(pieces, None)
        if first is None:
            raise Refusal(INVALID, "the first message of a blob is missing")
        check_hash(first.hash)
        if first.hash in self._blobs:
            self._blobs.touch(first.hash)
            return blobs_pb2.PutResponse(stored=False)
        with self._blobs.upload(first.hash, first.size) as upload:
            upload.receive(first.chunk)
            await self._writer.run(upload.hash_newest)
            async for request in pieces:
                upload.receive(request.chunk)
                await self._writer.run(upload.hash_newest)
            upload.finish()
        return blobs_pb2.PutResponse(stored=True)

    @streamed
    async def Get(
        self, request: blobs_pb2.GetRequest, context: Context
    ) -> AsyncIterator[blobs_pb2.GetResponse]:
        """Send a blob, from memory or from disk."""
        check_size(request)
        check_hash(request.hash)
        content = self._blobs.content(request.hash)
        if content is None:
            async for answer in self._from_disk(request.hash):
                yield answer
            return
        for start in range(0, max(len(content), 1), CHUNK_BYTES):
            chunk = content[start : start + CHUNK_BYTES]
            yield blobs_pb2.GetResponse(size=len(content), chunk=chunk)

    async def _from_disk(self, name: str) -> AsyncIterator[blobs_pb2.GetResponse]:
        """Send a release's blob; one that is damaged is refused, told and counted."""
        path, hashed = self._blobs.path(name), hashlib.sha256()
        try:
            with await asyncio.to_thread(path.open, "rb") as file:
                size = path.stat().st_size
                while chunk := await asyncio.to_thread(file.read, CHUNK_BYTES):
                    await asyncio.to_thread(hashed.update, chunk)
                    yield blobs_pb2.GetResponse(size=size, chunk=chunk)
            if hashed.hexdigest() == name:
                return
            why = "its bytes do not have its hash"
        except FileNotFoundError:
            why = "its file is gone"
        tell_damage(name, why)
        self._blobs.damaged(name)
        raise Refusal(DATA_LOSS, f"blob {name} is damaged on the server's disk: {why}")


async def _in_time(
    requests: AsyncIterator[blobs_pb2.PutRequest],
) -> AsyncIterator[blobs_pb2.PutRequest]:
    """The pieces of an upload: what comes slowly holds memory that others wait for.

    Raises:
        Refusal: DEADLINE_EXCEEDED, the next piece or the whole takes too long; INVALID_ARGUMENT, a
            piece is too large.
    """
    loop = asyncio.get_running_loop()
    end = loop.time() + BLOB_SECONDS
    while True:
        try:
            async with asyncio.timeout_at(min(end, loop.time() + PIECE_SECONDS)):
                request = await anext(requests, None)
        except TimeoutError:
            raise Refusal(TOO_SLOW, "the upload does not get on: send it again") from None
        if request is None:
            return
        check_size(request, LARGE_BYTES)
        yield request
