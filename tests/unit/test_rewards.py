"""Reward transforms."""

import math

import numpy as np
import pytest
import torch

from pronk.config.schema import RewardConfig
from pronk.rl import rewards

TANH_0_2, TANH_1_5 = math.tanh(0.2), math.tanh(1.5)
RAW = [-100.0, -1.5, -0.2, 0.0, 0.2, 1.5, 100.0]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, RAW),
        ({"scale": 0.1}, [-10.0, -0.15, -0.02, 0.0, 0.02, 0.15, 10.0]),
        ({"transform": "clip"}, [-1.0, -1.0, -0.2, 0.0, 0.2, 1.0, 1.0]),
        ({"transform": "clip", "scale": 0.1}, [-1.0, -0.15, -0.02, 0.0, 0.02, 0.15, 1.0]),
        (
            {"transform": "soft_asymmetric"},
            [-0.3, -0.3 * TANH_1_5, -0.3 * TANH_0_2, 0.0, 5 * TANH_0_2, 5 * TANH_1_5, 5.0],
        ),
        (
            {"transform": "soft_asymmetric", "scale": 7.5},
            [-0.3, -0.3 * math.tanh(11.25), -0.3 * TANH_1_5, 0.0, 5 * TANH_1_5, 5.0, 5.0],
        ),
    ],
)
def test_transform(settings, expected):
    raw = torch.tensor(RAW).reshape(7, 1)

    transformed = rewards.transform(raw, RewardConfig(**settings))

    assert transformed.shape == (7, 1)
    assert transformed.dtype == torch.float32
    np.testing.assert_allclose(transformed[:, 0], expected, rtol=1e-6, atol=1e-7)
    np.testing.assert_array_equal(raw[:, 0], np.float32(RAW))
