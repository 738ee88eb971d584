"""Initial weights."""

import math
from typing import TypeVar

from torch import nn

Layer = TypeVar("Layer", nn.Linear, nn.Conv2d)

RELU_GAIN = math.sqrt(2)
"""Keeps the variance of activations through a ReLU; common before tanh in actor-critics too."""


def orthogonal(layer: Layer, gain: float = RELU_GAIN) -> Layer:
    """The layer with orthogonal weights of this gain and zero biases."""
    nn.init.orthogonal_(layer.weight, gain)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer
