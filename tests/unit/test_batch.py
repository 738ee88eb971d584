"""Batches out of slot groups: what the learner sees is what the actor saw."""

import warnings
from dataclasses import fields

import numpy as np
import pytest
import torch

from pronk.rl.batch import Batch, SlotGroup, assemble
from pronk.wire.unroll import Unroll, UnrollHeader

HEADER = UnrollHeader("hash", "run", "default", "actor-1", 0)
SLOTS = 5
LENGTH = 4


class Stream:
    """3 unrolls' worth of one actor's rows, and what its policy was given at each of them.

    Told by stepping through episodes one slot and row at a time, the slow and plain way.
    """

    def __init__(self, seed=0):
        rng = np.random.default_rng(seed)
        rows = 3 * LENGTH
        below, above = (rows, SLOTS), (rows + 1, SLOTS)
        self.image = rng.integers(0, 255, (*above, 2, 2)).astype(np.uint8)
        self.number = rng.normal(size=above).astype(np.float32)
        self.move = rng.integers(1, 4, below)
        self.aim = rng.normal(size=(*below, 2)).astype(np.float32)
        self.log_prob, self.reward = rng.normal(size=(2, *below)).astype(np.float32)
        self.mask = rng.random((*above, 4)) < 0.5
        self.task = rng.integers(0, 2, above).astype(np.int32)
        self.version = rng.integers(0, 9, below)
        self.core = rng.normal(size=(*above, 3)).astype(np.float32)
        self.terminated, self.truncated = np.zeros((2, *below), bool)
        self.valid = np.ones(below, bool)
        self.reset = np.zeros(above, bool)
        self.last_move = np.zeros(above, np.int64)
        self.last_aim = np.zeros((*above, 2), np.float32)
        self.last_reward = np.zeros(above, np.float32)
        for slot in range(SLOTS):
            self._play(rng, slot)

    def _play(self, rng, slot):
        self.reset[0, slot] = True
        for t in range(3 * LENGTH):
            over = t > 0 and (self.terminated[t - 1, slot] or self.truncated[t - 1, slot])
            if over:  # the dead row: the action is ignored, the environment resets
                self.valid[t, slot] = False
                self.reward[t, slot] = 0.0
                self.reset[t + 1, slot] = True
                continue
            end = rng.choice(["", "terminated", "truncated"], p=[0.5, 0.25, 0.25])
            self.terminated[t, slot] = end == "terminated"
            self.truncated[t, slot] = end == "truncated"
            self.last_move[t + 1, slot] = self.move[t, slot]
            self.last_aim[t + 1, slot] = self.aim[t, slot]
            self.last_reward[t + 1, slot] = self.reward[t, slot]

    def unroll(self, index):
        start = index * LENGTH
        below, above = slice(start, start + LENGTH), slice(start, start + LENGTH + 1)
        return Unroll(
            header=HEADER,
            obs={"image": self.image[above], "number": self.number[above]},
            action={"move": self.move[below], "aim": self.aim[below]},
            behaviour_log_prob=self.log_prob[below],
            reward=self.reward[below],
            terminated=self.terminated[below],
            truncated=self.truncated[below],
            valid=self.valid[below],
            task=self.task[above],
            behaviour_version=self.version[below],
            core_state={"h": self.core[start]},
            last_action={"move": self.last_move[start], "aim": self.last_aim[start]},
            last_reward=self.last_reward[start],
            reset=self.reset[start],
            slot=np.arange(SLOTS, dtype=np.int32),
            action_mask=self.mask[above],
        )


def flat(batch):
    """Every tensor of a batch by name."""
    tensors = {}
    for field in fields(Batch):
        value = getattr(batch, field.name)
        named = value if isinstance(value, dict) else {"": value}
        tensors |= {f"{field.name}.{name}".rstrip("."): tensor for name, tensor in named.items()}
    return tensors


@pytest.fixture
def stream():
    return Stream()


@pytest.mark.parametrize("index", [0, 1, 2])
def test_rows_are_given_what_the_policy_was_given(stream, index):
    """Resets, last actions and last rewards of every row, across unrolls."""
    rows = slice(index * LENGTH, (index + 1) * LENGTH + 1)
    assert stream.reset[rows].any(axis=1)[1:].any(), "a reset inside the unroll"

    batch = assemble([SlotGroup(stream.unroll(index), 0, SLOTS)])

    np.testing.assert_array_equal(batch.reset, stream.reset[rows])
    np.testing.assert_array_equal(batch.last_action["move"], stream.last_move[rows])
    np.testing.assert_array_equal(batch.last_action["aim"], stream.last_aim[rows])
    np.testing.assert_array_equal(batch.last_reward, stream.last_reward[rows])


def test_arrays_are_the_unrolls(stream):
    unroll = stream.unroll(1)

    batch = assemble([SlotGroup(unroll, 0, SLOTS)])

    for name in ("obs", "action", "core_state"):
        for key, array in getattr(unroll, name).items():
            np.testing.assert_array_equal(getattr(batch, name)[key], array)
    for name in (
        *("behaviour_log_prob", "reward", "terminated", "truncated", "valid"),
        *("task", "behaviour_version", "action_mask"),
    ):
        np.testing.assert_array_equal(getattr(batch, name), getattr(unroll, name))


def test_groups_stand_side_by_side(stream):
    a, b = stream.unroll(0), Stream(seed=1).unroll(2)
    whole_a, whole_b = (flat(assemble([SlotGroup(unroll, 0, SLOTS)])) for unroll in (a, b))

    batch = flat(assemble([SlotGroup(a, 1, 3), SlotGroup(b, 0, 4), SlotGroup(a, 4, 5)]))

    assert batch.keys() == whole_a.keys()
    for name, tensor in batch.items():
        x, y = whole_a[name], whole_b[name]
        if name == "core_state.h":
            np.testing.assert_array_equal(tensor, torch.cat([x[1:3], y[:4], x[4:]]))
        else:
            np.testing.assert_array_equal(tensor, torch.cat([x[:, 1:3], y[:, :4], x[:, 4:]], 1))


def test_dtypes_are_the_unrolls(stream):
    tensors = flat(assemble([SlotGroup(stream.unroll(0), 0, SLOTS)]))

    dtypes = {name: str(tensor.dtype).removeprefix("torch.") for name, tensor in tensors.items()}
    assert dtypes == {
        "obs.image": "uint8",
        "obs.number": "float32",
        "action.move": "int64",
        "action.aim": "float32",
        "behaviour_log_prob": "float32",
        "reward": "float32",
        "terminated": "bool",
        "truncated": "bool",
        "valid": "bool",
        "task": "int32",
        "behaviour_version": "int64",
        "core_state.h": "float32",
        "reset": "bool",
        "last_action.move": "int64",
        "last_action.aim": "float32",
        "last_reward": "float32",
        "action_mask": "bool",
    }


def test_batch_has_memory_of_its_own(stream):
    """Decoded arrays are read-only views of a message; training must not depend on it."""
    unroll = stream.unroll(0)
    unroll.obs["image"] = np.frombuffer(unroll.obs["image"].tobytes(), np.uint8).reshape(
        unroll.obs["image"].shape
    )
    image = unroll.obs["image"].copy()

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        batch = assemble([SlotGroup(unroll, 0, SLOTS)])
    for tensor in flat(batch).values():
        tensor.zero_()

    np.testing.assert_array_equal(unroll.obs["image"], image)
    np.testing.assert_array_equal(unroll.reward, Stream().unroll(0).reward)


def test_without_mask_core_or_groups(stream):
    unroll = stream.unroll(0)
    unroll.action_mask, unroll.core_state = None, {}

    batch = assemble([SlotGroup(unroll, 0, 2)])

    assert batch.action_mask is None
    assert batch.core_state == {}
    with pytest.raises(ValueError, match="slots"):
        assemble([])


def test_moves_to_a_device_whole(stream):
    unroll = stream.unroll(0)
    batch = assemble([SlotGroup(unroll, 0, SLOTS)])

    moved = batch.to(torch.device("meta"))

    assert {tensor.device.type for tensor in flat(moved).values()} == {"meta"}
    for name, tensor in flat(moved).items():
        assert tensor.shape == flat(batch)[name].shape
    assert batch.to(torch.device("cpu")).reward is batch.reward
    unroll.action_mask = None
    assert assemble([SlotGroup(unroll, 0, 1)]).to(torch.device("meta")).action_mask is None
