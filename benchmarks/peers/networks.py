"""The convolutions that all train, in torch; the same as `minatar` and `shallow` of ours."""

from __future__ import annotations

import math

from torch import nn

FEATURES = {"minatar": 128, "pong": 256}
_CHANNELS = 4  # planes of Breakout; frames of Pong


def torso(name: str) -> nn.Module:
    """[N, 4, H, W] floats of at most 1 → [N, FEATURES[name]]."""
    if name == "minatar":
        layers = [nn.Conv2d(_CHANNELS, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 8 * 8, 128)]
    else:
        layers = [
            nn.Conv2d(_CHANNELS, 16, 8, stride=4),
            nn.ReLU(),
            nn.Conv2d(16, 32, 4, stride=2),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(32 * 9 * 9, 256),
        ]
    for layer in layers:
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.orthogonal_(layer.weight, math.sqrt(2))
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return nn.Sequential(*layers, nn.ReLU())
