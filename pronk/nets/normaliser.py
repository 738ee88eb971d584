"""Standardisation of float observations by running statistics."""

import numpy as np
import torch
from torch import Tensor, nn

from pronk.wire.spec import ArraySpec

_CLIP = 10.0
_SMALLEST_VARIANCE = 1e-8
_BELIEVED_ROWS = 1000
"""As many are taken as they are: what is ordinary is not known before."""
_REACH = 100.0
"""Standard deviations from the mean. Without it one number of 1e9 would hide all others: among a
million rows it makes the deviation 1e6. Taken as a hundred deviations it is forgotten within a
million; and what really changed is followed, for the reach grows with every batch that fills it."""


class Normaliser(nn.Module):
    """(x − mean) / std of every element of every float observation, clipped to ±10.

    The statistics are part of the policy's weights, so that actors and learner use the same. They
    are float32; `count` is a counter for training alone and stays out of released policies. After
    the first rows, what lies beyond a hundred deviations is taken as so many.
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
    def merged(self, obs: dict[str, Tensor], valid: Tensor) -> dict[str, Tensor]:
        """The statistics with the rows {name: [M, …]} where `valid` [M] merged in, by buffer.

        Nothing changes here (Chan et al. 1979, pairwise update).
        """
        rows = valid.sum()
        if rows == 0:
            return dict(self.named_buffers())
        total = self.count + rows
        share = (rows / total).float()
        merged = {"count": total}
        for index, array in enumerate(self.arrays):
            mean, variance = self._statistics(index)
            batch = self._within_reach(obs[array.name][valid].double(), index)
            delta = batch.mean(0).float() - mean
            spread = batch.var(0, correction=0).float() - variance
            merged[f"mean{index}"] = mean + share * delta
            merged[f"variance{index}"] = (
                variance + share * spread + share * (1 - share) * delta.square()
            )
        return merged

    def _within_reach(self, rows: Tensor, index: int) -> Tensor:
        if self.count < _BELIEVED_ROWS:
            return rows
        mean, variance = self._statistics(index)
        reach = _REACH * (variance + _SMALLEST_VARIANCE).sqrt()
        return rows.clamp(mean - reach, mean + reach)

    def _statistics(self, index: int) -> tuple[Tensor, Tensor]:
        return self.get_buffer(f"mean{index}"), self.get_buffer(f"variance{index}")
