"""Named weights ⇄ bytes in the safetensors format."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from pronk.wire.errors import WireError


def pack(arrays: dict[str, NDArray[Any]]) -> bytes:
    """The arrays as one safetensors blob; equal names, dtypes and shapes give an equal layout."""
    # safetensors writes memory as it lies: a transposed view would be scrambled without a word.
    return save({name: np.asarray(array, order="C") for name, array in arrays.items()})


def unpack(blob: bytes) -> dict[str, NDArray[Any]]:
    """The arrays of a blob.

    Raises:
        WireError: the bytes are not a safetensors blob.
    """
    try:
        return load(blob)
    except (SafetensorError, KeyError, ValueError) as error:
        raise WireError("malformed", f"not a safetensors blob: {error}") from None
