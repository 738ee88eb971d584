"""Arrays ⇄ `Tensor` messages: bytes, dtype and shape, never lists of numbers."""

import math
from typing import Any

import numpy as np
import zstandard
from numpy.typing import NDArray

from pronk.wire.errors import WireError
from pronk.wire.v1 import tensor_pb2

_DTYPES = {
    tensor_pb2.DATA_TYPE_BOOL: np.dtype(np.bool_),
    tensor_pb2.DATA_TYPE_INT8: np.dtype(np.int8),
    tensor_pb2.DATA_TYPE_INT16: np.dtype("<i2"),
    tensor_pb2.DATA_TYPE_INT32: np.dtype("<i4"),
    tensor_pb2.DATA_TYPE_INT64: np.dtype("<i8"),
    tensor_pb2.DATA_TYPE_UINT8: np.dtype(np.uint8),
    tensor_pb2.DATA_TYPE_UINT16: np.dtype("<u2"),
    tensor_pb2.DATA_TYPE_UINT32: np.dtype("<u4"),
    tensor_pb2.DATA_TYPE_UINT64: np.dtype("<u8"),
    tensor_pb2.DATA_TYPE_FLOAT16: np.dtype("<f2"),
    tensor_pb2.DATA_TYPE_FLOAT32: np.dtype("<f4"),
    tensor_pb2.DATA_TYPE_FLOAT64: np.dtype("<f8"),
}
_WIRE = {dtype: wire for wire, dtype in _DTYPES.items()}

MAX_TENSOR_BYTES = 64 << 20
"""Largest array, decompressed, that a message may hold: a bound against decompression bombs."""
_MAX_DIMENSIONS = 32


def dtype_to_wire(dtype: np.dtype[Any]) -> tensor_pb2.DataType.ValueType:
    """The wire's name of a numpy dtype.

    Raises:
        WireError: the wire does not carry the dtype.
    """
    try:
        return _WIRE[dtype.newbyteorder("<")]
    except KeyError:
        raise WireError("dtype", f"dtype {dtype} does not travel") from None


def dtype_from_wire(wire: int) -> np.dtype[Any]:
    """The numpy dtype of a wire name.

    Raises:
        WireError: the name is unknown.
    """
    try:
        return _DTYPES[tensor_pb2.DataType.ValueType(wire)]
    except KeyError:
        raise WireError("dtype", f"unknown data type {wire}") from None


def fill_tensor(
    message: tensor_pb2.Tensor, array: NDArray[Any], name: str = "", *, compress: bool = False
) -> None:
    """Write an array into an empty message.

    In place, since building messages and putting them into one another copies the bytes once more.

    Args:
        message: empty.
        array: of any layout and byte order.
        name: of the array, within its group.
        compress: ask for zstd level 1, taken where it is smaller.

    Raises:
        WireError: "dtype" where the wire does not carry the array's.
    """
    wire = dtype_to_wire(array.dtype)
    data = array.astype(_DTYPES[wire], copy=False).tobytes()
    message.compression = tensor_pb2.COMPRESSION_NONE
    if compress:
        smaller = zstandard.compress(data, level=1)
        if len(smaller) < len(data):
            data = smaller
            message.compression = tensor_pb2.COMPRESSION_ZSTD
    message.name = name
    message.dtype = wire
    message.shape.extend(array.shape)
    message.data = data


def from_tensor(message: tensor_pb2.Tensor, limit: int = MAX_TENSOR_BYTES) -> NDArray[Any]:
    """The array of a message, read-only, native in memory.

    Args:
        message: not trusted.
        limit: largest size in bytes, looked at before anything is decompressed.

    Raises:
        WireError: "dtype", "oversized", "tensor" (bytes that do not fill the shape, unknown or
            broken compression) or "range" (a bool that is neither 0 nor 1).
    """
    dtype = dtype_from_wire(message.dtype)
    shape = tuple(message.shape)
    if len(shape) > _MAX_DIMENSIONS:
        raise WireError("tensor", f"array {message.name!r} of {len(shape)} dimensions")
    size = math.prod(shape) * dtype.itemsize
    if size > limit:
        raise WireError("oversized", f"array {message.name!r} of {size} bytes")
    data = _decompress(message, size)
    if len(data) != size:
        raise WireError("tensor", f"array {message.name!r}: {len(data)} bytes, expected {size}")
    if dtype == np.bool_ and data.translate(None, b"\0\1"):
        raise WireError("range", f"array {message.name!r} holds a bool that is neither 0 nor 1")
    try:
        return np.ndarray(shape, dtype, data)
    except ValueError as error:  # an empty array whose other axes numpy cannot count
        raise WireError("tensor", f"array {message.name!r}: {error}") from None


def _decompress(message: tensor_pb2.Tensor, size: int) -> bytes:
    match message.compression:
        case tensor_pb2.COMPRESSION_NONE:
            return message.data
        case tensor_pb2.COMPRESSION_ZSTD:
            return _decompress_zstd(message, size)
        case _:
            raise WireError("tensor", f"array {message.name!r}: unknown compression")


def _decompress_zstd(message: tensor_pb2.Tensor, size: int) -> bytes:
    data = message.data
    try:
        # The library allocates what the frame says, whatever the limit it is given.
        if zstandard.frame_content_size(data) != size:
            raise WireError("tensor", f"array {message.name!r} does not unpack to {size} bytes")
        return zstandard.ZstdDecompressor().decompress(data, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise WireError("tensor", f"array {message.name!r}: {error}") from None
