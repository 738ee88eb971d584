"""The policy's distributions: categorical, several categoricals side by side, diagonal Gaussian.

Parameters come by action name, [..., P]: a discrete action's are the logits of all its choices,
concatenated; a continuous action's are k means, then k logarithms of standard deviations. Choices,
elements and actions are independent, so joint log-probabilities and entropies are sums. Sampling is
the actor's (`pronk.policy.sampling`, the same formulas in numpy).
"""

import math
from collections.abc import Iterable
from functools import reduce
from typing import Protocol

import torch
from torch import Tensor

from pronk.wire.spec import ActionSpec, DiscreteSpec

_LOG_ROOT_TAU = 0.5 * math.log(2.0 * math.pi)
_UNIT_GAUSSIAN_ENTROPY = 0.5 + _LOG_ROOT_TAU

Tensors = dict[str, Tensor]
"""Tensors by action name."""


class Joint:
    """The distribution of all actions of a policy, over leading axes […] such as [T, B].

    Logits are normalised once, when it is made, for log-probability and entropy alike.

    Args:
        actions: what the policy chooses.
        params: {name: [..., P]} distribution parameters, of any float dtype.
    """

    def __init__(self, actions: tuple[ActionSpec, ...], params: Tensors) -> None:
        self._parts = {spec.name: _part(spec, params[spec.name]) for spec in actions}

    def log_prob(self, action: Tensors) -> Tensor:
        """[…] joint log-probability (density, where continuous) of {name: [..., *shape]}."""
        return _sum(part.log_prob(action[name]) for name, part in self._parts.items())

    def entropy(self) -> Tensor:
        """[…] joint (differential) entropy in nats."""
        return _sum(part.entropy() for part in self._parts.values())


class _Part(Protocol):
    """The distribution of one named action."""

    def log_prob(self, action: Tensor) -> Tensor: ...
    def entropy(self) -> Tensor: ...


class _Categorical:
    """One choice or several: logits [..., ΣC], actions int64 […] or [..., choices]."""

    def __init__(self, spec: DiscreteSpec, logits: Tensor) -> None:
        self._scalar = spec.scalar
        self._log_probs = [
            part.log_softmax(-1) for part in torch.split(logits, list(spec.choices), -1)
        ]

    def log_prob(self, action: Tensor) -> Tensor:
        columns = action.unsqueeze(-1) if self._scalar else action
        chosen = torch.split(columns, 1, -1)
        pairs = zip(self._log_probs, chosen, strict=True)
        return _sum(log_probs.gather(-1, choice).squeeze(-1) for log_probs, choice in pairs)

    def entropy(self) -> Tensor:
        # A masked choice has a huge but finite negative logarithm, so 0·log 0 is 0 here.
        return _sum(-(log_probs.exp() * log_probs).sum(-1) for log_probs in self._log_probs)


class _Gaussian:
    """Independent normals: parameters [..., 2k], actions float [..., *shape] of k elements."""

    def __init__(self, params: Tensor) -> None:
        self._mean, self._log_std = params.chunk(2, -1)

    def log_prob(self, action: Tensor) -> Tensor:
        deviation = (action.reshape(self._mean.shape) - self._mean) * torch.exp(-self._log_std)
        return -(0.5 * deviation.square() + self._log_std + _LOG_ROOT_TAU).sum(-1)

    def entropy(self) -> Tensor:
        return (self._log_std + _UNIT_GAUSSIAN_ENTROPY).sum(-1)


def _part(spec: ActionSpec, params: Tensor) -> _Part:
    if isinstance(spec, DiscreteSpec):
        return _Categorical(spec, params)
    return _Gaussian(params)


def _sum(terms: Iterable[Tensor]) -> Tensor:
    return reduce(torch.add, terms)
