"""Unrolls ⇄ bytes: a frame around a protobuf message.

    magic "PRNK" | contract version, u16 | CRC-32 of the rest, u32 | protobuf `Unroll`

Integers are little-endian. Magic and version are looked at first, so that a foreign or a newer
message is told apart from a damaged one.
"""

import struct
import zlib
from collections.abc import Iterable
from typing import Any, Protocol

from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from pronk.wire.contract import CONTRACT_VERSION
from pronk.wire.errors import WireError
from pronk.wire.tensors import fill_tensor, from_tensor
from pronk.wire.unroll import Arrays, Episode, Unroll, UnrollHeader
from pronk.wire.v1 import tensor_pb2, unroll_pb2

MAX_FRAME_BYTES = 2 << 20
"""Largest frame that travels."""
MAX_UNROLL_BYTES = 64 << 20
"""Largest sum of an unroll's arrays, decompressed."""
MAX_ARRAYS = 256
"""Most arrays of one kind (observations, actions, extras, …) in an unroll."""

_MAGIC = b"PRNK"
_FRAME = struct.Struct("<4sHI")


def encode(unroll: Unroll, *, compress: bool = False) -> bytes:
    """The frame of an unroll.

    Args:
        unroll: trusted; `validate.check` is the receiver's.
        compress: ask for zstd level 1 on the observations.

    Raises:
        WireError: "dtype" where an array cannot travel, "oversized" above `MAX_FRAME_BYTES`.
    """
    message = unroll_pb2.Unroll()
    _fill_header(message.header, unroll.header)
    _fill_group(message.observation, unroll.obs, compress=compress)
    if unroll.action_mask is not None:
        fill_tensor(message.action_mask, unroll.action_mask)
    fill_tensor(message.task, unroll.task)
    _fill_group(message.action, unroll.action)
    fill_tensor(message.behaviour_log_prob, unroll.behaviour_log_prob)
    fill_tensor(message.reward, unroll.reward)
    fill_tensor(message.terminated, unroll.terminated)
    fill_tensor(message.truncated, unroll.truncated)
    fill_tensor(message.valid, unroll.valid)
    fill_tensor(message.behaviour_version, unroll.behaviour_version)
    _fill_group(message.distribution, unroll.distribution)
    _fill_group(message.extra, unroll.extras)
    _fill_group(message.core_state, unroll.core_state)
    _fill_group(message.last_action, unroll.last_action)
    fill_tensor(message.last_reward, unroll.last_reward)
    fill_tensor(message.reset, unroll.reset)
    fill_tensor(message.slot, unroll.slot)
    for episode in unroll.episodes:
        _fill_episode(message.episodes.add(), episode)
    return _frame(message.SerializeToString())


def decode(frame: bytes) -> Unroll:
    """The unroll of a frame; its arrays are read-only.

    Names, shapes and dtypes are as sent: `validate.check` compares them with what is expected.

    Raises:
        WireError: "magic", "version", "checksum", "malformed", "dtype", "tensor", "range" (a bool
            that is neither 0 nor 1) or "oversized".
    """
    message = _parse(frame)
    arrays = _ArrayReader()
    reward = arrays.one(message, "reward")
    if len(message.episodes) > reward.size:
        raise WireError("malformed", f"{len(message.episodes)} episodes in {reward.size} rows")
    return Unroll(
        header=_header(message),
        obs=arrays.named(message.observation),
        action=arrays.named(message.action),
        behaviour_log_prob=arrays.one(message, "behaviour_log_prob"),
        reward=reward,
        terminated=arrays.one(message, "terminated"),
        truncated=arrays.one(message, "truncated"),
        valid=arrays.one(message, "valid"),
        task=arrays.one(message, "task"),
        behaviour_version=arrays.one(message, "behaviour_version"),
        core_state=arrays.named(message.core_state),
        last_action=arrays.named(message.last_action),
        last_reward=arrays.one(message, "last_reward"),
        reset=arrays.one(message, "reset"),
        slot=arrays.one(message, "slot"),
        action_mask=arrays.one(message, "action_mask") if message.HasField("action_mask") else None,
        distribution=arrays.named(message.distribution),
        extras=arrays.named(message.extra),
        episodes=tuple(_episode_from_proto(episode) for episode in message.episodes),
    )


class _Group(Protocol):
    """A repeated field of tensors."""

    def add(self) -> tensor_pb2.Tensor: ...


class _ArrayReader:
    """Reads one message's arrays within one budget of bytes."""

    def __init__(self) -> None:
        self._left = MAX_UNROLL_BYTES

    def one(self, message: unroll_pb2.Unroll, field: str) -> NDArray[Any]:
        if not message.HasField(field):  # type: ignore[arg-type]
            raise WireError("malformed", f"no {field}")
        return self._read(getattr(message, field))

    def named(self, tensors: Iterable[tensor_pb2.Tensor]) -> Arrays:
        arrays: Arrays = {}
        for tensor in tensors:
            name = tensor.name
            if name in arrays:
                raise WireError("malformed", f"two arrays {name!r}")
            if len(arrays) == MAX_ARRAYS:
                raise WireError("oversized", f"more than {MAX_ARRAYS} arrays of one kind")
            arrays[name] = self._read(tensor)
        return arrays

    def _read(self, tensor: tensor_pb2.Tensor) -> NDArray[Any]:
        array = from_tensor(tensor, self._left)
        self._left -= array.nbytes
        return array


def _frame(body: bytes) -> bytes:
    frame = _FRAME.pack(_MAGIC, CONTRACT_VERSION, zlib.crc32(body)) + body
    if len(frame) > MAX_FRAME_BYTES:
        raise WireError("oversized", f"an unroll of {len(frame)} bytes, limit {MAX_FRAME_BYTES}")
    return frame


def _parse(frame: bytes) -> unroll_pb2.Unroll:
    if len(frame) > MAX_FRAME_BYTES:
        raise WireError("oversized", f"a frame of {len(frame)} bytes, limit {MAX_FRAME_BYTES}")
    if frame[: len(_MAGIC)] != _MAGIC:
        raise WireError("magic", "not an unroll")
    if len(frame) < _FRAME.size:
        raise WireError("malformed", f"a frame of {len(frame)} bytes")
    _magic, version, checksum = _FRAME.unpack_from(frame)
    if version != CONTRACT_VERSION:
        raise WireError("version", f"contract version {version}, expected {CONTRACT_VERSION}")
    body = memoryview(frame)[_FRAME.size :]
    if zlib.crc32(body) != checksum:
        raise WireError("checksum", "the checksum does not match")
    try:
        # The generated stub asks for bytes; the library takes any buffer and spares a copy.
        return unroll_pb2.Unroll.FromString(body)  # type: ignore[arg-type]
    except DecodeError as error:
        raise WireError("malformed", str(error)) from None


def _header(message: unroll_pb2.Unroll) -> UnrollHeader:
    if not message.HasField("header"):
        raise WireError("malformed", "no header")
    header = message.header
    return UnrollHeader(
        header.experiment_hash, header.run, header.policy, header.member, header.sequence
    )


def _fill_header(message: unroll_pb2.UnrollHeader, header: UnrollHeader) -> None:
    message.experiment_hash = header.experiment_hash
    message.run = header.run
    message.policy = header.policy
    message.member = header.member
    message.sequence = header.sequence


def _fill_group(group: _Group, arrays: Arrays, *, compress: bool = False) -> None:
    for name, array in arrays.items():
        fill_tensor(group.add(), array, name, compress=compress)


def _fill_episode(message: unroll_pb2.Episode, episode: Episode) -> None:
    setattr(message, "return", episode.episode_return)
    message.steps = episode.steps
    message.frames = episode.frames
    message.task = episode.task
    message.slot = episode.slot
    message.number = episode.number


def _episode_from_proto(message: unroll_pb2.Episode) -> Episode:
    return Episode(
        getattr(message, "return"),
        message.steps,
        message.frames,
        message.task,
        message.slot,
        message.number,
    )
