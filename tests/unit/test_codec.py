"""Unrolls survive the wire bit by bit; whatever else arrives is refused under a reason."""

import struct
import tracemalloc
import zlib
from collections.abc import Callable
from dataclasses import replace

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
import zstandard
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from unroll_samples import HEADER, PLAIN, RICH, RICH_CORE, assert_equal, assert_same, sample

from pronk.wire import codec
from pronk.wire.contract import CONTRACT_VERSION
from pronk.wire.errors import WireError
from pronk.wire.tensors import MAX_TENSOR_BYTES, fill_tensor, from_tensor
from pronk.wire.v1 import tensor_pb2, unroll_pb2

DTYPES = ("?", "b", "h", "i", "q", "B", "H", "I", "Q", "e", "f", "d")
LAYOUTS: dict[str, Callable[[NDArray], NDArray]] = {
    "C": np.ascontiguousarray,
    "Fortran": np.asfortranarray,
    "transposed": lambda a: a.T,
    "strided": lambda a: np.repeat(a, 2, axis=-1)[..., ::2] if a.ndim else a,
    "reversed": lambda a: a[::-1] if a.ndim else a,
    "broadcast": lambda a: np.broadcast_to(a, (3, *a.shape)),
}


def refusal(frame: bytes) -> str:
    with pytest.raises(WireError) as caught:
        codec.decode(frame)
    return caught.value.reason


def framed(body: bytes, magic: bytes = b"PRNK", version: int = CONTRACT_VERSION) -> bytes:
    return struct.pack("<4sHI", magic, version, zlib.crc32(body)) + body


def body_of(frame: bytes) -> unroll_pb2.Unroll:
    return unroll_pb2.Unroll.FromString(frame[10:])


def spoiled(spoil: Callable[[unroll_pb2.Unroll], object]) -> bytes:
    """A frame that is whole, around a message that is not."""
    message = body_of(codec.encode(sample(RICH, RICH_CORE)))
    spoil(message)
    return framed(message.SerializeToString())


SMALL = codec.encode(
    replace(sample(rows=1, slots=1), distribution={}, extras={}, episodes=()), compress=False
)


@given(
    array=st.sampled_from(DTYPES).flatmap(
        lambda dtype: hnp.arrays(
            np.dtype(dtype), hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)
        )
    ),
    layout=st.sampled_from(sorted(LAYOUTS)),
    order=st.sampled_from("<>"),
    compress=st.booleans(),
)
@example(array=np.array(np.nan, "f4"), layout="C", order=">", compress=True)
@example(array=np.zeros((3, 0, 2), "i8"), layout="Fortran", order=">", compress=True)
def test_arrays_of_every_dtype_shape_and_layout_survive(array, layout, order, compress):
    sent = LAYOUTS[layout](array.astype(array.dtype.newbyteorder(order)))
    message = tensor_pb2.Tensor()
    fill_tensor(message, sent, "name", compress=compress)
    received = from_tensor(tensor_pb2.Tensor.FromString(message.SerializeToString()))
    assert_same(sent, received)
    assert message.name == "name"


@given(
    rich=st.booleans(),
    rows=st.integers(1, 5),
    slots=st.integers(1, 4),
    seed=st.integers(0, 2**32),
    compress=st.booleans(),
)
def test_unrolls_survive(rich, rows, slots, seed, compress):
    spec, core = (RICH, RICH_CORE) if rich else (PLAIN, {})
    unroll = sample(spec, core, rows=rows, slots=slots, seed=seed)
    assert_equal(unroll, codec.decode(codec.encode(unroll, compress=compress)))


def test_the_empty_optional_parts_survive():
    unroll = replace(sample(), action_mask=None, distribution={}, extras={}, episodes=())
    assert_equal(unroll, codec.decode(codec.encode(unroll)))


def test_extreme_header_and_episodes_survive():
    unroll = sample()
    unroll.header = replace(HEADER, run="ρ" * 100, sequence=2**64 - 1)
    unroll.episodes = (unroll.episodes[0]._replace(episode_return=-1e300, number=2**63),)
    assert_equal(unroll, codec.decode(codec.encode(unroll)))


def test_decoded_arrays_are_read_only():
    with pytest.raises(ValueError, match="read-only"):
        codec.decode(SMALL).reward[0] = 1


def test_compression_is_taken_where_it_pays():
    unroll = sample(rows=50, slots=8)
    unroll.obs = {"default": np.zeros((51, 8, 4), np.float32)}
    assert len(codec.encode(unroll, compress=True)) < len(codec.encode(unroll)) - 6000
    noise = np.frombuffer(np.random.default_rng(0).bytes(4096), np.uint8)
    message = tensor_pb2.Tensor()
    fill_tensor(message, noise, compress=True)
    assert message.compression == tensor_pb2.COMPRESSION_NONE


@pytest.mark.parametrize("dtype", ["complex64", "datetime64[s]", "U3", "O", "V4"])
def test_what_cannot_travel_is_refused_at_home(dtype):
    unroll = sample()
    unroll.extras = {"odd": np.zeros((3, 2), dtype)}
    with pytest.raises(WireError) as caught:
        codec.encode(unroll)
    assert caught.value.reason == "dtype"


# Damage in transit.


def test_every_prefix_is_refused():
    for length in range(len(SMALL)):
        assert refusal(SMALL[:length]) in {"magic", "malformed", "checksum"}
    assert refusal(SMALL + b"\0") == "checksum"


def test_every_flipped_bit_is_refused():
    for position in range(len(SMALL)):
        expected = "magic" if position < 4 else "version" if position < 6 else "checksum"
        for bit in range(8):
            damaged = bytearray(SMALL)
            damaged[position] ^= 1 << bit
            assert refusal(bytes(damaged)) == expected, (position, bit)


def test_magic_and_version_are_looked_at_before_the_checksum():
    body = SMALL[10:]
    assert refusal(b"X" + SMALL[1:-1]) == "magic"
    assert refusal(framed(body, magic=b"PRNL")) == "magic"
    assert refusal(framed(body, version=CONTRACT_VERSION + 1)) == "version"
    assert refusal(framed(body, version=CONTRACT_VERSION + 1)[:-1]) == "version"
    assert refusal(framed(body)[:-1]) == "checksum"


# Messages whose checksum is right and that are wrong nevertheless.


def decodes_or_refuses(frame: bytes) -> None:
    reason = "none"
    try:
        codec.decode(frame)
    except WireError as error:
        reason = error.reason
    assert reason in {"none", "malformed", "dtype", "tensor", "range", "oversized"}


def test_no_flipped_bit_under_a_right_checksum_breaks_the_decoder():
    body = SMALL[10:]
    for position in range(len(body)):
        for bit in range(8):
            damaged = bytearray(body)
            damaged[position] ^= 1 << bit
            decodes_or_refuses(framed(bytes(damaged)))


def test_no_prefix_under_a_right_checksum_decodes():
    # The last fields are optional lists; without them the message would be whole.
    for length in range(len(SMALL) - 10):
        assert refusal(framed(SMALL[10 : 10 + length])) in {"malformed", "tensor"}


@given(st.binary(max_size=300))
def test_random_bytes_are_refused(data):
    with pytest.raises(WireError):
        codec.decode(data)
    decodes_or_refuses(framed(data))


@settings(max_examples=50)
@given(st.integers(0, 2**32), st.data())
def test_random_edits_under_a_right_checksum_never_break_the_decoder(seed, data):
    body = bytearray(codec.encode(sample(RICH, RICH_CORE, seed=seed), compress=True)[10:])
    for _ in range(data.draw(st.integers(1, 8))):
        start = data.draw(st.integers(0, len(body) - 1))
        body[start : start + data.draw(st.integers(0, 4))] = data.draw(st.binary(max_size=4))
    decodes_or_refuses(framed(bytes(body)))


SINGLE_FIELDS = (
    "header",
    "task",
    "behaviour_log_prob",
    "reward",
    "terminated",
    "truncated",
    "valid",
    "behaviour_version",
    "last_reward",
    "reset",
    "slot",
)


@pytest.mark.parametrize("field", SINGLE_FIELDS)
def test_a_missing_field_is_malformed(field):
    assert refusal(spoiled(lambda m: m.ClearField(field))) == "malformed"


@pytest.mark.parametrize(
    "group", ["observation", "action", "distribution", "extra", "core_state", "last_action"]
)
def test_a_name_that_comes_twice_is_malformed(group):
    def repeat(message):
        getattr(message, group).append(getattr(message, group)[0])

    assert refusal(spoiled(repeat)) == "malformed"


def test_a_foreign_message_is_malformed():
    assert refusal(framed(b"")) == "malformed"
    assert refusal(framed(b"\xff" * 20)) == "malformed"


def test_unknown_dtypes_and_compressions_are_refused():
    assert refusal(spoiled(lambda m: setattr(m.reward, "dtype", 0))) == "dtype"
    assert refusal(spoiled(lambda m: setattr(m.reward, "dtype", 99))) == "dtype"
    assert refusal(spoiled(lambda m: setattr(m.reward, "compression", 0))) == "tensor"
    assert refusal(spoiled(lambda m: setattr(m.reward, "compression", 9))) == "tensor"


def test_bytes_that_do_not_fill_the_shape_are_refused():
    assert refusal(spoiled(lambda m: setattr(m.reward, "data", m.reward.data[:-1]))) == "tensor"
    assert refusal(spoiled(lambda m: setattr(m.reward, "data", m.reward.data + b"\0"))) == "tensor"
    assert refusal(spoiled(lambda m: m.reward.shape.append(2))) == "tensor"
    assert refusal(spoiled(lambda m: m.reward.ClearField("shape"))) == "tensor"
    assert refusal(spoiled(lambda m: m.reward.shape.extend([1] * 40))) == "tensor"


def test_a_bool_is_nothing_but_true_or_false():
    assert refusal(spoiled(lambda m: setattr(m.valid, "data", b"\2" * 6))) == "range"


def test_more_episodes_than_rows_are_refused():
    assert refusal(spoiled(lambda m: [m.episodes.add() for _ in range(7)])) == "malformed"


def test_broken_compression_is_refused():
    def squeeze(message, data):
        message.reward.compression = tensor_pb2.COMPRESSION_ZSTD
        message.reward.data = data

    whole = zstandard.compress(bytes(24))
    unsized = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(24))
    for data in (b"", b"no frame", whole[:-1], whole + whole, unsized, zstandard.compress(b"x")):
        assert refusal(spoiled(lambda m, data=data: squeeze(m, data))) == "tensor"
    codec.decode(spoiled(lambda m: squeeze(m, whole)))


# Messages that would fill the memory.


def bomb(declared: int, shape: list[int], real: int = 1 << 20) -> tensor_pb2.Tensor:
    """A frame of zstd that says how large it is, and is `real` zeros."""
    frame = bytearray(zstandard.compress(bytes(real), level=1))
    # RFC 8878, 3.1.1.1: magic, descriptor (here: 4 bytes of content size), window, content size.
    assert frame[4] & 0xE0 == 0x80
    frame[4] |= 0xC0
    frame[6:10] = declared.to_bytes(8, "little")
    assert zstandard.frame_content_size(bytes(frame)) == declared
    return tensor_pb2.Tensor(
        dtype=tensor_pb2.DATA_TYPE_UINT8,
        shape=shape,
        compression=tensor_pb2.COMPRESSION_ZSTD,
        data=bytes(frame),
    )


def peak_bytes(frame: bytes) -> tuple[str, int]:
    tracemalloc.start()
    try:
        return refusal(frame), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("tensor", "reason"),
    [
        (bomb(1 << 30, [1 << 30]), "oversized"),
        (bomb(1 << 30, [4]), "tensor"),
        (bomb(48 << 20, [4]), "tensor"),
        (bomb(4, [4]), "tensor"),
        (bomb(2**63 - 1, [2**32 - 1, 2**32 - 1]), "oversized"),
        (bomb(MAX_TENSOR_BYTES + 1, [MAX_TENSOR_BYTES + 1]), "oversized"),
        (bomb(4, [2**32 - 1] * 100_000), "tensor"),
        (tensor_pb2.Tensor(dtype=2, compression=1, shape=[0, 2**32 - 1, 2**32 - 1]), "tensor"),
    ],
)
def test_an_array_that_says_it_is_huge_costs_nothing(tensor, reason):
    refused_as, peak = peak_bytes(spoiled(lambda m: m.extra.append(tensor)))
    assert refused_as == reason
    assert peak < 8 << 20


def test_many_large_arrays_are_refused_together():
    large = tensor_pb2.Tensor()
    fill_tensor(large, np.zeros(20 << 20, np.uint8), compress=True)

    def add(message):
        for index in range(100):
            message.extra.append(large)
            message.extra[-1].name = str(index)

    reason, peak = peak_bytes(spoiled(add))
    assert reason == "oversized"
    assert peak < codec.MAX_UNROLL_BYTES + (16 << 20)


def test_too_many_arrays_are_refused():
    def add(message):
        for index in range(codec.MAX_ARRAYS + 1):
            message.core_state.add(
                name=str(index), dtype=tensor_pb2.DATA_TYPE_BOOL, compression=1, shape=[0]
            )

    assert refusal(spoiled(add)) == "oversized"


def test_a_frame_too_large_is_neither_made_nor_read():
    unroll = sample()
    unroll.extras = {"fat": np.zeros((3, 2, codec.MAX_FRAME_BYTES), np.uint8)}
    with pytest.raises(WireError) as caught:
        codec.encode(unroll)
    assert caught.value.reason == "oversized"
    assert refusal(SMALL + bytes(codec.MAX_FRAME_BYTES)) == "oversized"
