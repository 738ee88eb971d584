"""Blobs: bounded in memory, whole or absent on disk."""

from collections.abc import Sequence
from pathlib import Path

import grpc
import pytest
from faults import ruin
from pronk_param_server import blobs as module
from pronk_param_server.blob_files import blob_path, persist, prune, sound
from pronk_param_server.blobs import PENDING_SECONDS, Blobs
from pronk_param_server.refusal import Refusal

from pronk.telemetry import metrics
from pronk.wire.digest import digest


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def blobs(tmp_path: Path, clock: Clock) -> Blobs:
    return Blobs(tmp_path, (), clock)


def put(blobs: Blobs, *pieces: bytes) -> str:
    content = b"".join(pieces)
    name = digest(content)
    upload(blobs, name, len(content), pieces)
    return name


def upload(blobs: Blobs, name: str, size: int, pieces: Sequence[bytes]) -> None:
    with blobs.upload(name, size) as new:
        for piece in pieces:
            new.receive(piece)
            new.hash_newest()
        new.finish()


def test_pieces_become_one_blob(blobs: Blobs) -> None:
    name = put(blobs, b"one ", b"two")
    assert blobs.content(name) == b"one two"
    assert blobs.bytes == 7


def test_the_same_blob_twice_counts_once(blobs: Blobs) -> None:
    put(blobs, b"abc")
    put(blobs, b"abc")
    assert blobs.bytes == 3


@pytest.mark.parametrize(
    ("name", "size", "pieces"),
    [
        (digest(b"abc"), 3, [b"abX"]),
        (digest(b"abc"), 3, [b"ab"]),
        (digest(b"abc"), 3, [b"ab", b"cd"]),
        (digest(b"abc"), 1, [b"abc"]),
        ("not a hash", 3, [b"abc"]),
        (digest(b"abc").upper(), 3, [b"abc"]),
        (digest(b"abc"), module.MAX_BLOB_BYTES + 1, [b"abc"]),
    ],
)
def test_what_is_not_the_blob_is_refused(
    blobs: Blobs, name: str, size: int, pieces: list[bytes]
) -> None:
    with pytest.raises(Refusal) as refusal:
        upload(blobs, name, size, pieces)
    assert refusal.value.code == grpc.StatusCode.INVALID_ARGUMENT
    assert name not in blobs
    assert blobs.bytes == 0, "bytes of a failed upload are counted out"


def test_memory_is_bounded(blobs: Blobs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MEMORY_BYTES", 10)
    named = put(blobs, b"12345")
    blobs.retain({named})
    pending = put(blobs, b"abcde")
    newer = put(blobs, b"fghij")  # takes the place of the one that no version names
    assert pending not in blobs
    blobs.retain({named, newer})
    with pytest.raises(Refusal) as refusal:
        put(blobs, b"one more")
    assert refusal.value.code == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert blobs.bytes == 10


def test_superseded_blobs_are_dropped(blobs: Blobs) -> None:
    old, new = put(blobs, b"old"), put(blobs, b"new")
    blobs.retain({old})
    blobs.retain({new})
    assert old not in blobs
    assert new in blobs
    assert blobs.bytes == 3


def test_a_blob_just_stored_waits_for_its_version(blobs: Blobs, clock: Clock) -> None:
    other = put(blobs, b"of another learner")
    blobs.retain(())
    assert other in blobs
    clock.now += PENDING_SECONDS / 2
    blobs.touch(other)
    clock.now += PENDING_SECONDS - 1
    blobs.retain(())
    assert other in blobs
    clock.now += 2
    blobs.retain(())
    assert other not in blobs
    assert blobs.bytes == 0


def test_released_blobs_leave_memory_and_stay_on_disk(blobs: Blobs, tmp_path: Path) -> None:
    name = put(blobs, b"released")
    contents = blobs.to_persist([name])
    persist(tmp_path, contents)
    blobs.persisted(contents)
    clock_free = Blobs(tmp_path, [name], lambda: 0.0)
    for store in (blobs, clock_free):
        store.retain(())
        assert name in store
        assert store.path(name).read_bytes() == b"released"
        assert store.to_persist([name]) == {}
    assert not list(tmp_path.rglob(".*"))


def test_what_is_gone_cannot_be_released_or_read(blobs: Blobs) -> None:
    for use in (blobs.path, lambda name: blobs.to_persist([name])):
        with pytest.raises(Refusal) as refusal:
            use(digest(b"gone"))
        assert refusal.value.code == grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize("damage", ["truncate", "flip", "empty", "remove"])
def test_a_damaged_blob_is_told_and_counted(
    tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    contents = {digest(content): content for content in (b"one blob", b"another")}
    persist(tmp_path, contents)
    name, other = contents
    assert sound(tmp_path, contents) == {name, other}
    ruin(blob_path(tmp_path, name), damage)
    before = metrics.BLOBS_DAMAGED._value.get()
    assert sound(tmp_path, contents) == {other}
    assert metrics.BLOBS_DAMAGED._value.get() == before + 1
    output = capsys.readouterr()
    assert (output.out + output.err).count("blob_damaged") == 1


def test_what_no_release_names_is_removed(tmp_path: Path) -> None:
    contents = {digest(content): content for content in (b"released", b"left over")}
    persist(tmp_path, contents)
    released, _ = contents
    (blob_path(tmp_path, released).parent / f".{released}.partial").write_bytes(b"half")
    prune(tmp_path, {released})
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == [released]


def test_small_blobs_are_given_all_or_none(blobs: Blobs) -> None:
    one, two = put(blobs, b"12345"), put(blobs, b"abcde")
    assert blobs.small([one, two], 10) == {one: b"12345", two: b"abcde"}
    assert blobs.small([one, two], 9) == {}
    assert blobs.small([one, digest(b"elsewhere")], 10) == {}
