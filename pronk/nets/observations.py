"""Observations of any dtype and shape → float tensors that layers can take."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from pronk.nets.images import channels_first, image_size, is_image
from pronk.wire.spec import ArraySpec

_ONE_HOT_LIMIT = 4096
_SMALLEST_PICTURE = 32
_LARGEST_CODE = 10.0


def to_image(array: ArraySpec, obs: Tensor, scale: float | None = None) -> Tensor:
    """[M, *shape] → [M, C, H, W] float; integers are multiplied by `scale`."""
    if len(array.shape) == 2:
        obs = obs.unsqueeze(1)
    elif not channels_first(array):
        obs = obs.permute(0, 3, 1, 2)
    return _to_float(array, obs, scale)


def vector_size(arrays: Sequence[ArraySpec]) -> int:
    """Width of `to_vector`."""
    return sum(_categories(array) * math.prod(array.shape) for array in arrays)


def to_vector(
    arrays: Sequence[ArraySpec], obs: dict[str, Tensor], scale: float | None = None
) -> Tensor:
    """{name: [M, …]} → [M, F]: flattened and concatenated.

    Bounded int32 and int64 observations without image shape (Gymnasium's Discrete and
    MultiDiscrete) are categories and become one-hot; other integers are multiplied by `scale`.
    """
    parts = []
    for array in arrays:
        flat = obs[array.name].flatten(1) if array.shape else obs[array.name].unsqueeze(1)
        count = _categories(array)
        if count > 1:
            values = torch.arange(count, device=flat.device) + int(array.low)
            parts.append((flat.unsqueeze(2) == values).flatten(1).float())
        else:
            parts.append(_to_float(array, flat, scale))
    return torch.cat(parts, 1) if len(parts) > 1 else parts[0]


def _to_float(array: ArraySpec, obs: Tensor, scale: float | None) -> Tensor:
    """Float observations as they are; others times `scale`, by default `_default_scale`."""
    obs = obs.float()
    if np.dtype(array.dtype).kind == "f":
        return obs
    if scale is None:
        scale = _default_scale(array)
    return obs if scale == 1 else obs * scale


def _default_scale(array: ArraySpec) -> float:
    """1 / the upper bound, so that pixels lie in [0, 1].

    Small images are grids of codes, and MiniGrid declares 255 where its codes end at 10: divided by
    255 they would all but vanish, so the bound of a small image counts for 10 at most.
    """
    if not 1 < array.high < math.inf:
        return 1.0
    small = is_image(array) and max(image_size(array)[1:]) < _SMALLEST_PICTURE
    return 1 / min(array.high, _LARGEST_CODE) if small else 1 / array.high


def _categories(array: ArraySpec) -> int:
    """Width of the one-hot code of every element; 1 where elements are numbers."""
    bounded = math.isfinite(array.low) and math.isfinite(array.high)
    if array.dtype not in ("int32", "int64") or not bounded or len(array.shape) > 1:
        return 1
    count = int(array.high - array.low) + 1
    return count if count * math.prod(array.shape) <= _ONE_HOT_LIMIT else 1
