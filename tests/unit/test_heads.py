"""Heads: what distribution parameters can be."""

import math

import torch

from pronk.nets.heads import ContinuousHead
from pronk.wire.spec import ContinuousSpec


def test_means_of_bounded_elements_stay_in_range_and_others_do_not():
    head = ContinuousHead(4, ContinuousSpec("default", (2,), (-2.0, -math.inf), (2.0, 3.0)))
    torch.nn.init.ones_(head.linear.weight)

    mean, log_std = head(torch.full((1, 4), 50.0)).chunk(2, 1)

    torch.testing.assert_close(mean, torch.tensor([[1.0, 200.0]]))
    torch.testing.assert_close(log_std, torch.zeros(1, 2))
    assert list(head.state_dict()) == ["log_std", "linear.weight", "linear.bias"]
