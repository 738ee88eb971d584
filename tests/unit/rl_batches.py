"""Batches for the tests of the algorithm: random rows, with episode ends where asked for."""

from dataclasses import replace

import numpy as np
import torch

from pronk.rl.batch import Batch
from pronk.wire.spec import DiscreteSpec

ACTIONS = (DiscreteSpec("action", (3,)),)


def ends_to_rows(ends, first_valid):
    """Flags [T, B] of slots whose row t is asked to end as ends[b][t]: "", "over" or "cut".

    After an end comes the dead row, which ends nothing. `first_valid` [B]: False where row 0 is the
    dead row of an end in the unroll before.
    """
    shape = (len(ends[0]), len(ends))
    terminated, truncated, valid = (np.zeros(shape, bool) for _ in range(3))
    for b, kinds in enumerate(ends):
        alive = first_valid[b]
        for t, kind in enumerate(kinds):
            valid[t, b] = alive
            terminated[t, b] = alive and kind == "over"
            truncated[t, b] = alive and kind == "cut"
            alive = not (terminated[t, b] or truncated[t, b])
    return terminated, truncated, valid


def random_batch(rng, terminated, truncated, valid, dtype=torch.float64):
    """A batch around the flags, and the network's (params, values) on it, which want gradients.

    Dead rows hold noise like all others, and weights beyond float's range: nothing may read them.
    """
    length, slots = valid.shape
    below, above = (length, slots), (length + 1, slots)

    def normal(*shape):
        return torch.from_numpy(rng.normal(size=shape)).to(dtype)

    batch = Batch(
        obs={},
        action={"action": torch.from_numpy(rng.integers(0, 3, below))},
        behaviour_log_prob=normal(*below) - 1.0,
        reward=normal(*below),
        terminated=torch.from_numpy(terminated),
        truncated=torch.from_numpy(truncated),
        valid=torch.from_numpy(valid),
        task=torch.zeros(above, dtype=torch.int32),
        behaviour_version=torch.zeros(below, dtype=torch.int64),
        core_state={},
        reset=torch.zeros(above, dtype=torch.bool),
        last_action={"action": torch.zeros(above, dtype=torch.int64)},
        last_reward=torch.zeros(above),
        action_mask=None,
    )
    batch.behaviour_log_prob[~batch.valid] = -1e9
    params = {"action": normal(*above, 3).requires_grad_()}
    return batch, params, normal(*above).requires_grad_()


def rows_of(batch, start, stop, slot):
    """Transitions start … stop-1 of one slot, as a batch of its own without any flag."""
    rows, column = slice(start, stop), slice(slot, slot + 1)
    clear = torch.zeros(stop - start, 1, dtype=torch.bool)
    return replace(
        batch,
        action={name: value[rows, column] for name, value in batch.action.items()},
        behaviour_log_prob=batch.behaviour_log_prob[rows, column],
        reward=batch.reward[rows, column],
        terminated=clear,
        truncated=clear,
        valid=~clear,
    )
