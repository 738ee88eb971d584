"""Immutable bytes by hash: the newest versions' in memory, the releases' on disk.

Everything here runs on the event loop, but `Upload.hash_newest`: that is for the writer thread.
"""

import hashlib
import re
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Self

from pronk_param_server.blob_files import blob_path
from pronk_param_server.refusal import EXHAUSTED, INVALID, NOT_FOUND, Refusal

MAX_BLOB_BYTES = 1 << 30
"""Largest blob."""
MEMORY_BYTES = 2 << 30
"""All blobs in memory together, unfinished uploads included."""
PENDING_SECONDS = 60.0
"""A blob that no version names is dropped after this long."""

_HASH = re.compile(r"[0-9a-f]{64}")


def check_hash(name: str) -> None:
    """Raise `Refusal` unless `name` is a hex SHA-256."""
    if not _HASH.fullmatch(name):
        raise Refusal(INVALID, f"{name[:80]!r} is not a hex SHA-256")


class Blobs:
    """All blobs of a run.

    Args:
        folder: where those of releases lie, as `ab/abcd…`.
        on_disk: hashes of those that lie there.
        clock: seconds, for the age of blobs that nobody names yet.
    """

    def __init__(self, folder: Path, on_disk: Iterable[str], clock: Callable[[], float]) -> None:
        self._folder = folder
        self._on_disk = set(on_disk)
        self._clock = clock
        self._memory: dict[str, bytes] = {}
        # Stored, but named by no version yet: since when.
        self._pending: dict[str, float] = {}
        self.bytes = 0

    def __contains__(self, name: str) -> bool:
        return name in self._memory or name in self._on_disk

    def touch(self, name: str) -> None:
        """A version that names a blob at hand is on its way: keep it a while."""
        if name in self._memory:
            self._pending[name] = self._clock()

    def upload(self, name: str, size: int) -> "Upload":
        """Begin to take a blob in.

        Raises:
            Refusal: INVALID_ARGUMENT, the hash is none or the blob is too large.
        """
        check_hash(name)
        if size > MAX_BLOB_BYTES:
            raise Refusal(INVALID, f"a blob has at most {MAX_BLOB_BYTES} bytes, not {size}")
        return Upload(self, name, size)

    def reserve(self, size: int) -> None:
        """Count bytes in memory.

        Raises:
            Refusal: RESOURCE_EXHAUSTED, the memory for blobs is used up.
        """
        if self.bytes + size > MEMORY_BYTES:
            self._drop(self._pending.copy())
        if self.bytes + size > MEMORY_BYTES:
            raise Refusal(EXHAUSTED, "the parameter server's memory for blobs is full")
        self.bytes += size

    def release(self, size: int) -> None:
        """Count bytes out again."""
        self.bytes -= size

    def add(self, name: str, content: bytes) -> None:
        """Keep a blob whose bytes were counted and whose hash was checked."""
        if name in self._memory:
            self.bytes -= len(content)
        self._memory[name] = content
        self._pending[name] = self._clock()

    def retain(self, named: Collection[str]) -> None:
        """Drop blobs that no version in memory names, but those just stored."""
        for name in named:
            self._pending.pop(name, None)
        limit = self._clock() - PENDING_SECONDS
        old = {name for name, since in self._pending.items() if since < limit}
        self._drop(old | (self._memory.keys() - self._pending.keys() - set(named)))

    def small(self, names: Iterable[str], limit: int) -> dict[str, bytes]:
        """Those blobs, if all are in memory and no larger than `limit` together; else none."""
        contents = {name: self._memory.get(name) for name in names}
        found = {name: content for name, content in contents.items() if content is not None}
        fits = len(found) == len(contents) and sum(map(len, found.values())) <= limit
        return found if fits else {}

    def content(self, name: str) -> bytes | None:
        """A blob in memory."""
        return self._memory.get(name)

    def path(self, name: str) -> Path:
        """The file of a blob on disk.

        Raises:
            Refusal: NOT_FOUND.
        """
        if name not in self._on_disk:
            raise Refusal(NOT_FOUND, f"no blob {name}: its version was superseded")
        return blob_path(self._folder, name)

    def to_persist(self, names: Iterable[str]) -> dict[str, bytes]:
        """Those of a release's blobs that are not on disk yet.

        Raises:
            Refusal: NOT_FOUND, one was dropped.
        """
        missing = [name for name in names if name not in self._on_disk]
        gone = [name for name in missing if name not in self._memory]
        if gone:
            raise Refusal(NOT_FOUND, f"no blob {gone[0]}: its version was superseded")
        return {name: self._memory[name] for name in missing}

    def persisted(self, names: Iterable[str]) -> None:
        """Those are on disk now."""
        self._on_disk.update(names)

    def damaged(self, name: str) -> None:
        """What lies on disk under that name cannot be used: it must be stored anew."""
        self._on_disk.discard(name)

    def _drop(self, names: Iterable[str]) -> None:
        for name in names:
            self._pending.pop(name, None)
            self.bytes -= len(self._memory.pop(name, b""))


class Upload:
    """A blob on its way in, as a context; its bytes count as soon as they arrive."""

    def __init__(self, blobs: Blobs, name: str, size: int) -> None:
        self._blobs = blobs
        self._name = name
        self._size = size
        self._pieces: list[bytes] = []
        self._received = 0
        self._hash = hashlib.sha256()

    def receive(self, piece: bytes) -> None:
        """Take the next piece.

        Raises:
            Refusal: more bytes than announced, none at all after the first piece, or no memory
                for them.
        """
        if self._received + len(piece) > self._size:
            raise Refusal(INVALID, f"the blob is larger than the {self._size} bytes announced")
        if self._pieces and not piece:
            raise Refusal(INVALID, "a piece without bytes")
        self._blobs.reserve(len(piece))
        self._received += len(piece)
        self._pieces.append(piece)

    def hash_newest(self) -> None:
        """Hash the newest piece; on the writer thread."""
        self._hash.update(self._pieces[-1])

    def finish(self) -> None:
        """Keep the blob.

        Raises:
            Refusal: INVALID_ARGUMENT, bytes are missing or do not have the hash.
        """
        if self._received != self._size:
            raise Refusal(INVALID, f"{self._received} of {self._size} bytes of the blob arrived")
        if self._hash.hexdigest() != self._name:
            raise Refusal(INVALID, f"the bytes do not have the hash {self._name}")
        pieces = self._pieces
        content = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        self._blobs.add(self._name, content)
        self._received = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Count out what was not kept."""
        self._blobs.release(self._received)
