"""The rows of one unroll while they are being played."""

from collections.abc import Iterator
from dataclasses import fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pronk.envs.slots import Arrays, StepResult
from pronk.wire.entries import ENTRY_BYTES, groups
from pronk.wire.spec import ContinuousSpec, EnvironmentSpec
from pronk.wire.unroll import Episode, Unroll, UnrollHeader
from pronk_actor.agent import Choice, Memory

_ONE_PER_SLOT = ("core_state", "last_action", "last_reward", "reset", "slot")
_MAPS = ("obs", "action", "core_state", "last_action", "distribution", "extras")


class Rollout:
    """T rows of N slots in arrays of their own, so that a finished unroll may travel as it is."""

    def __init__(
        self, spec: EnvironmentSpec, length: int, slots: NDArray[np.int32], *, distribution: bool
    ) -> None:
        """Allocate.

        Args:
            spec: the environment's.
            length: T.
            slots: [N] the member's numbers of these slots.
            distribution: keep the behaviour's distribution parameters.
        """
        count = len(slots)
        rows = (length, count)
        more = (length + 1, count)
        self.obs = {a.name: np.empty((*more, *a.shape), a.dtype) for a in spec.observation}
        self.action_mask = np.empty((*more, spec.mask_size), np.bool_) if spec.action_mask else None
        self.task = np.empty(more, np.int32)
        self.action: Arrays = {}
        for action in spec.action:
            dtype = np.float32 if isinstance(action, ContinuousSpec) else np.int64
            self.action[action.name] = np.empty((*rows, *action.shape), dtype)
        self.distribution: Arrays = {}
        if distribution:
            for action in spec.action:
                self.distribution[action.name] = np.empty((*rows, action.parameters), np.float32)
        self.log_prob = np.empty(rows, np.float32)
        self.reward = np.empty(rows, np.float32)
        self.terminated = np.empty(rows, np.bool_)
        self.truncated = np.empty(rows, np.bool_)
        self.valid = np.empty(rows, np.bool_)
        self._slots = slots

    def observed(
        self, row: int, obs: Arrays, action_mask: NDArray[np.bool_] | None, where: slice
    ) -> None:
        """Copy what slots `where` of an environment show into row `row` of T+1."""
        for name, array in self.obs.items():
            array[row] = obs[name][where]
        if self.action_mask is not None and action_mask is not None:
            self.action_mask[row] = action_mask[where]

    def chose(self, row: int, choice: Choice) -> None:
        """Copy an agent's choice into row `row` of T."""
        for name, array in self.action.items():
            array[row] = choice.action[name]
        for name, array in self.distribution.items():
            array[row] = choice.params[name]
        self.log_prob[row] = choice.log_prob

    def followed(self, row: int, result: StepResult, where: slice, dead: NDArray[np.bool_]) -> None:
        """Copy what followed in slots `where` into row `row` of T, and the next observation.

        Args:
            row: t.
            result: of the step.
            where: the slots in the environment.
            dead: [N] the step was a reset transition, or failed.
        """
        self.reward[row] = result.reward[where]
        self.terminated[row] = result.terminated[where]
        self.truncated[row] = result.truncated[where]
        np.logical_not(dead, out=self.valid[row])
        self.observed(row + 1, result.obs, result.action_mask, where)

    def finish(
        self, header: UnrollHeader, first: Memory, version: int, episodes: tuple[Episode, ...]
    ) -> Unroll:
        """The unroll; the rollout must not be written any more.

        Args:
            header: where it comes from.
            first: the inputs of row 0.
            version: number of the version that acted in every row.
            episodes: that ended in these rows.
        """
        return Unroll(
            header=header,
            obs=self.obs,
            action=self.action,
            behaviour_log_prob=self.log_prob,
            reward=self.reward,
            terminated=self.terminated,
            truncated=self.truncated,
            valid=self.valid,
            task=self.task,
            behaviour_version=np.full(self.reward.shape, version, np.int64),
            core_state=first.core_state,
            last_action=first.last_action,
            last_reward=first.last_reward,
            reset=first.reset,
            slot=self._slots,
            action_mask=self.action_mask,
            distribution=self.distribution,
            episodes=episodes,
        )


def split(unroll: Unroll, limit: int = ENTRY_BYTES) -> Iterator[Unroll]:
    """The unroll by groups of neighbouring slots, each below `limit` bytes where one slot is.

    Headers count on from the unroll's own sequence number. An episode goes with its slot.
    """
    parts = groups(unroll.slots, size_of(unroll) // unroll.slots, limit)
    if len(parts) == 1:
        yield unroll
        return
    for index, where in enumerate(parts):
        header = replace(unroll.header, sequence=unroll.header.sequence + index)
        yield _part(unroll, header, where)


def size_of(unroll: Unroll) -> int:
    """Bytes of all its arrays."""
    return sum(array.nbytes for array in _arrays(unroll))


def _part(unroll: Unroll, header: UnrollHeader, where: slice) -> Unroll:
    changes: dict[str, Any] = {"header": header}
    for field in fields(unroll):
        value = getattr(unroll, field.name)
        index = (where,) if field.name in _ONE_PER_SLOT else (slice(None), where)
        if field.name in _MAPS:
            changes[field.name] = {name: array[index] for name, array in value.items()}
        elif isinstance(value, np.ndarray):
            changes[field.name] = value[index]
    own = set(changes["slot"].tolist())
    changes["episodes"] = tuple(e for e in unroll.episodes if e.slot in own)
    return replace(unroll, **changes)


def _arrays(unroll: Unroll) -> Iterator[NDArray[Any]]:
    for field in fields(unroll):
        value = getattr(unroll, field.name)
        if field.name in _MAPS:
            yield from value.values()
        elif isinstance(value, np.ndarray):
            yield value
