"""Unrolls ⇄ bytes: a frame around a protobuf message.

    magic "PRNK" | contract version, u16 | CRC-32 of the rest, u32 | protobuf `Unroll`

Integers are little-endian. Magic and version are looked at first, so that a foreign or a newer
message is told apart from a damaged one.
"""

from pronk.wire.unroll import Unroll, UnrollHeader

CONTRACT_VERSION = 1
"""Rises with every change of the frame or of the unroll's meaning."""
MAX_FRAME_BYTES = 2 << 20
"""Largest frame that travels."""


def encode(unroll: Unroll, *, compress: bool = False) -> bytes:
    """The frame of an unroll.

    Args:
        unroll: trusted; `validate.check` is the receiver's.
        compress: ask for zstd level 1 on the observations.

    Raises:
        WireError: "dtype" where an array cannot travel, "oversized" above `MAX_FRAME_BYTES`.
    """
    raise NotImplementedError


def decode(frame: bytes) -> Unroll:
    """The unroll of a frame; its arrays are read-only.

    Names, shapes and dtypes are as sent: `validate.check` compares them with what is expected.

    Raises:
        WireError: "magic", "version", "checksum", "malformed", "dtype", "tensor", "range" (a bool
            that is neither 0 nor 1) or "oversized".
    """
    raise NotImplementedError


def peek_header(frame: bytes) -> UnrollHeader:
    """Where a frame comes from, its arrays left alone.

    Raises:
        WireError: as `decode`, short of what arrays can do wrong.
    """
    raise NotImplementedError
