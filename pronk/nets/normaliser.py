"""Standardisation of float observations by running statistics."""

import numpy as np
import torch
from torch import Tensor, nn

from pronk.wire.spec import ArraySpec

_CLIP = 10.0
_SMALLEST_VARIANCE = 1e-8


class Normaliser(nn.Module):
    """(x − mean) / std of every element of every float observation, clipped to ±10.

    The statistics are part of the policy's weights, so that actors and learner use the same. They
    are float32; `count` is a counter for training alone and stays out of released policies.
    """

    count: Tensor

    def __init__(self, observation: tuple[ArraySpec, ...]) -> None:
        super().__init__()
        self.arrays = tuple(a for a in observation if np.dtype(a.dtype).kind == "f")
        for index, array in enumerate(self.arrays):
            self.register_buffer(f"mean{index}", torch.zeros(array.shape))
            self.register_buffer(f"variance{index}", torch.ones(array.shape))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    def forward(self, obs: dict[str, Tensor]) -> dict[str, Tensor]:
        """{name: [M, …]} → the same with float observations standardised, float32."""
        standardised = {}
        for index, array in enumerate(self.arrays):
            mean, variance = self._statistics(index)
            deviation = (variance + _SMALLEST_VARIANCE).sqrt()
            standardised[array.name] = ((obs[array.name].float() - mean) / deviation).clamp(
                -_CLIP, _CLIP
            )
        return obs | standardised

    @torch.no_grad()
    def update(self, obs: dict[str, Tensor], valid: Tensor) -> None:
        """Merge the rows {name: [M, …]} where `valid` [M] (Chan et al. 1979, pairwise update)."""
        rows = valid.sum()
        if rows == 0:
            return
        total = self.count + rows
        share = (rows / total).float()
        for index, array in enumerate(self.arrays):
            mean, variance = self._statistics(index)
            batch = obs[array.name][valid].double()
            delta = batch.mean(0).float() - mean
            batch_variance = batch.var(0, correction=0).float()
            variance += share * (batch_variance - variance) + share * (1 - share) * delta.square()
            mean += share * delta
        self.count.copy_(total)

    def _statistics(self, index: int) -> tuple[Tensor, Tensor]:
        return self.get_buffer(f"mean{index}"), self.get_buffer(f"variance{index}")
