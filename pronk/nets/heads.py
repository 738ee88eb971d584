"""Heads: features → distribution parameters and value, in float32 under any autocast."""

import math

import torch
from torch import Tensor, nn

from pronk.nets.initialise import orthogonal
from pronk.wire.spec import ActionSpec, ContinuousSpec, DiscreteSpec

MASKED = -1e9
"""Logit of a forbidden choice: its probability is exactly 0, and nothing becomes NaN."""

_LOG_STD_BOUNDS = (-5.0, 2.0)
_SMALL = 0.01
"""Gain of policy heads: policies start close to uniform, whatever the features are."""


class DiscreteHead(nn.Module):
    """The concatenated logits of one discrete action."""

    def __init__(self, features: int, action: DiscreteSpec) -> None:
        super().__init__()
        self.linear = orthogonal(nn.Linear(features, action.parameters), _SMALL)

    def forward(self, features: Tensor, mask: Tensor | None) -> Tensor:
        """Features [M, F], mask [M, P] bool or None → logits [M, P]."""
        logits: Tensor = self.linear(features)
        return logits if mask is None else logits.masked_fill(~mask, MASKED)


class ContinuousHead(nn.Module):
    """Means that depend on the features, and logarithms of standard deviations that do not.

    Means of bounded elements stay within [-1, 1], which the environment stretches to the bounds:
    beyond them every draw would be clipped to the same action, and nothing could be learned from
    it any more. Standard deviations start at 1 and are kept within e^-5 and e^2.
    """

    bounded: Tensor

    def __init__(self, features: int, action: ContinuousSpec) -> None:
        super().__init__()
        self.linear = orthogonal(nn.Linear(features, action.size), _SMALL)
        self.log_std = nn.Parameter(torch.zeros(action.size))
        bounds = zip(action.low, action.high, strict=True)
        bounded = [math.isfinite(low) and math.isfinite(high) for low, high in bounds]
        self.register_buffer("bounded", torch.tensor(bounded), persistent=False)

    def forward(self, features: Tensor) -> Tensor:
        """Features [M, F] → [M, 2k]."""
        mean = self.linear(features)
        mean = torch.where(self.bounded, mean.tanh(), mean)
        return torch.cat([mean, self.log_std.clamp(*_LOG_STD_BOUNDS).expand_as(mean)], 1)


class PolicyHeads(nn.Module):
    """One head per action."""

    def __init__(self, features: int, actions: tuple[ActionSpec, ...]) -> None:
        super().__init__()
        self.actions = actions
        self.heads = nn.ModuleList(
            DiscreteHead(features, action)
            if isinstance(action, DiscreteSpec)
            else ContinuousHead(features, action)
            for action in actions
        )

    def forward(self, features: Tensor, mask: Tensor | None) -> dict[str, Tensor]:
        """Features [M, F], mask [M, A] over all discrete logits or None → {action: [M, P]}."""
        params, start = {}, 0
        with torch.autocast(features.device.type, enabled=False):
            features = features.float()
            for action, head in zip(self.actions, self.heads, strict=True):
                if isinstance(action, DiscreteSpec):
                    end = start + action.parameters
                    part = None if mask is None else mask[:, start:end]
                    params[action.name] = head(features, part)
                    start = end
                else:
                    params[action.name] = head(features)
        return params


class ValueHead(nn.Module):
    """One value per task, from shared features; the row's task selects."""

    def __init__(self, features: int, tasks: int) -> None:
        super().__init__()
        self.linear = orthogonal(nn.Linear(features, tasks), 1.0)

    def forward(self, features: Tensor, task: Tensor) -> Tensor:
        """Features [M, F], task [M] integer → value [M]."""
        with torch.autocast(features.device.type, enabled=False):
            values: Tensor = self.linear(features.float())
        if self.linear.out_features == 1:
            return values.squeeze(1)
        return values.gather(1, task.long().unsqueeze(1)).squeeze(1)
