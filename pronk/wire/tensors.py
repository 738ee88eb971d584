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


def to_tensor(array: NDArray[Any], name: str = "", *, compress: bool = False) -> tensor_pb2.Tensor:
    """The message of an array; `compress` asks for zstd level 1."""
    dtype = array.dtype.newbyteorder("<")
    data = np.ascontiguousarray(array, dtype=dtype).tobytes()
    compression = tensor_pb2.COMPRESSION_NONE
    if compress:
        data = zstandard.compress(data, level=1)
        compression = tensor_pb2.COMPRESSION_ZSTD
    return tensor_pb2.Tensor(
        name=name,
        dtype=dtype_to_wire(dtype),
        shape=array.shape,
        compression=compression,
        data=data,
    )


def from_tensor(message: tensor_pb2.Tensor) -> NDArray[Any]:
    """The array of a message, read-only where its bytes could be used in place.

    Raises:
        WireError: unknown dtype or compression, too large, or bytes that do not fill the shape.
    """
    dtype = dtype_from_wire(message.dtype)
    shape = tuple(message.shape)
    size = math.prod(shape) * dtype.itemsize
    if size > MAX_TENSOR_BYTES:
        raise WireError("oversized", f"array {message.name!r} of {size} bytes")
    data = _decompress(message, size)
    if len(data) != size:
        raise WireError("tensor", f"array {message.name!r}: {len(data)} bytes, expected {size}")
    return np.frombuffer(data, dtype).reshape(shape)


def _decompress(message: tensor_pb2.Tensor, size: int) -> bytes:
    match message.compression:
        case tensor_pb2.COMPRESSION_NONE:
            return message.data
        case tensor_pb2.COMPRESSION_ZSTD:
            try:
                return zstandard.ZstdDecompressor().decompress(message.data, max_output_size=size)
            except zstandard.ZstdError as error:
                raise WireError("tensor", f"array {message.name!r}: {error}") from None
        case _:
            raise WireError("tensor", f"array {message.name!r}: unknown compression")
