"""What the learner trains on: slots of several unrolls side by side, as tensors."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pronk.wire.unroll import Arrays, Unroll

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class SlotGroup:
    """Slots `start` to `stop` (exclusive) of an unroll."""

    unroll: Unroll
    start: int
    stop: int


@dataclass(frozen=True)
class Batch:
    """Time-major rows of B slots; T transitions, T+1 observations. Dtypes are the unroll's.

    Row t holds obs_t, what was computed from it and what followed. `reset`, `last_action` and
    `last_reward` are the policy's inputs beside the observation, derived for every row.
    """

    obs: Tensors
    """{name: [T+1, B, …]}"""
    action: Tensors
    """{name: [T, B, …]}"""
    behaviour_log_prob: Tensor
    """[T, B] float32"""
    reward: Tensor
    """[T, B] float32, raw"""
    terminated: Tensor
    """[T, B] bool"""
    truncated: Tensor
    """[T, B] bool"""
    valid: Tensor
    """[T, B] bool, False on the transition out of a final observation"""
    task: Tensor
    """[T+1, B] int32"""
    behaviour_version: Tensor
    """[T, B] int64"""
    core_state: Tensors
    """{name: [B, …]} before row 0 and before its reset is applied"""
    reset: Tensor
    """[T+1, B] bool, the row's observation is the first of an episode"""
    last_action: Tensors
    """{name: [T+1, B, …]} the action of the row before; zero where `reset`"""
    last_reward: Tensor
    """[T+1, B] float32, the raw reward of the row before; zero where `reset`"""
    action_mask: Tensor | None
    """[T+1, B, A] bool"""

    def to(self, device: torch.device) -> "Batch":
        """The batch on a device; tensors that are there already are shared."""
        moved: dict[str, Any] = {
            field.name: _move(getattr(self, field.name), device) for field in fields(self)
        }
        return Batch(**moved)


def assemble(groups: Sequence[SlotGroup]) -> Batch:
    """One batch of all groups' slots, in order; every array is copied once, into its own memory.

    The unrolls were validated against one experiment (`pronk.wire.validate`): their lengths, names,
    shapes and dtypes agree.

    Raises:
        ValueError: there are no groups.
    """
    if not groups:
        raise ValueError("a batch needs slots")
    join = _Join(groups)
    valid = join.array("valid", axis=1)
    reset = np.concatenate([join.array("reset", axis=0)[None], ~valid])
    action = join.arrays("action", axis=1)
    reward = join.array("reward", axis=1)
    first_action = join.arrays("last_action", axis=0)
    last_action = {name: _last(first_action[name], action[name], reset) for name in action}
    has_mask = groups[0].unroll.action_mask is not None
    return Batch(
        obs=_tensors(join.arrays("obs", axis=1)),
        action=_tensors(action),
        behaviour_log_prob=torch.from_numpy(join.array("behaviour_log_prob", axis=1)),
        reward=torch.from_numpy(reward),
        terminated=torch.from_numpy(join.array("terminated", axis=1)),
        truncated=torch.from_numpy(join.array("truncated", axis=1)),
        valid=torch.from_numpy(valid),
        task=torch.from_numpy(join.array("task", axis=1)),
        behaviour_version=torch.from_numpy(join.array("behaviour_version", axis=1)),
        core_state=_tensors(join.arrays("core_state", axis=0)),
        reset=torch.from_numpy(reset),
        last_action=_tensors(last_action),
        last_reward=torch.from_numpy(_last(join.array("last_reward", axis=0), reward, reset)),
        action_mask=torch.from_numpy(join.array("action_mask", axis=1)) if has_mask else None,
    )


class _Join:
    """The same field of every group, side by side along its slot axis."""

    def __init__(self, groups: Sequence[SlotGroup]) -> None:
        self._groups = groups

    def array(self, field: str, axis: int) -> NDArray[Any]:
        return self._concatenate([getattr(group.unroll, field) for group in self._groups], axis)

    def arrays(self, field: str, axis: int) -> Arrays:
        maps: list[Arrays] = [getattr(group.unroll, field) for group in self._groups]
        return {name: self._concatenate([m[name] for m in maps], axis) for name in maps[0]}

    def _concatenate(self, arrays: list[NDArray[Any]], axis: int) -> NDArray[Any]:
        before = (slice(None),) * axis
        parts = [
            array[(*before, slice(group.start, group.stop))]
            for array, group in zip(arrays, self._groups, strict=True)
        ]
        return np.concatenate(parts, axis)


def _last(first: NDArray[Any], rows: NDArray[Any], reset: NDArray[np.bool_]) -> NDArray[Any]:
    """[T+1, B, …]: `first` [B, …], then `rows` [T, B, …], zero where `reset` [T+1, B]."""
    last = np.concatenate([first[None], rows])
    last[reset] = 0
    return last


def _tensors(arrays: Arrays) -> Tensors:
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def _move(value: Tensor | Tensors | None, device: torch.device) -> Tensor | Tensors | None:
    if value is None:
        return None
    if isinstance(value, dict):
        return {name: tensor.to(device) for name, tensor in value.items()}
    return value.to(device)
