"""Plays one policy's slots of an actor, unroll by unroll."""

from dataclasses import dataclass

import numpy as np

from pronk.envs.slots import Arrays, Observation, StepResult
from pronk.wire.spec import EnvironmentSpec
from pronk.wire.unroll import Unroll, UnrollHeader
from pronk_actor.agent import Agent
from pronk_actor.episodes import Ended, EpisodeTracker
from pronk_actor.rollout import Rollout


@dataclass(frozen=True)
class Seat:
    """Where a policy plays.

    Attributes:
        policy: its name.
        slots: its slots of the actor.
        unroll_length: T.
        distribution: ship the behaviour's distribution parameters.
    """

    policy: str
    slots: range
    unroll_length: int
    distribution: bool = False

    @property
    def where(self) -> slice:
        """The slots in the environment's arrays."""
        return slice(self.slots.start, self.slots.stop)


class Player:
    """One policy in its slots: `act` and `record` T times, then `finish`, and again."""

    def __init__(self, spec: EnvironmentSpec, seat: Seat, agent: Agent) -> None:
        self.seat = seat
        self.agent = agent
        self._spec = spec
        self._numbers = np.arange(seat.slots.start, seat.slots.stop, dtype=np.int32)
        self._tracker = EpisodeTracker(self._numbers, spec.frames_per_step)
        self._dead = np.zeros(len(seat.slots), np.bool_)
        self._first = agent.memory
        self._row = 0
        self._rollout = self._new_rollout()

    @property
    def between_unrolls(self) -> bool:
        """No row of the next unroll was played yet: the only time to swap policies."""
        return self._row == 0

    @property
    def rows_left(self) -> int:
        """Rows until the unroll is full."""
        return self.seat.unroll_length - self._row

    @property
    def lost(self) -> list[tuple[int, int]]:
        """(slot, number) of the episodes of the newest unroll whose environment failed."""
        return self._tracker.lost

    def restart(self, observation: Observation) -> None:
        """The environments were reset: take their first observation."""
        self.agent.restart()
        self._dead = np.zeros(len(self.seat.slots), np.bool_)
        where = self.seat.where
        self._row = 0
        self._rollout = self._new_rollout()
        self._rollout.observed(0, observation.obs, observation.action_mask, where)
        self._first = self.agent.memory

    def act(self) -> Arrays:
        """Choose the actions of the next row: {name: [N, …]}."""
        rollout, row = self._rollout, self._row
        obs = {name: array[row] for name, array in rollout.obs.items()}
        mask = None if rollout.action_mask is None else rollout.action_mask[row]
        choice = self.agent.act(obs, mask)
        rollout.chose(row, choice)
        return choice.action

    def record(self, result: StepResult) -> None:
        """Take what followed the actions, of all slots of the actor."""
        rollout, row = self._rollout, self._row
        dead = result.dead(self._dead, self.seat.where)
        rollout.followed(row, result, self.seat.where, dead)
        action = {name: array[row] for name, array in rollout.action.items()}
        self.agent.observe(action, rollout.reward[row], dead)
        self._dead = rollout.terminated[row] | rollout.truncated[row]
        self._row += 1

    def finish(self, header: UnrollHeader) -> tuple[Unroll, list[Ended]]:
        """The unroll, and the episodes that ended in it; the next unroll begins where it ends."""
        rollout, version = self._rollout, self.agent.policy.version
        ended = self._tracker.advance(
            rollout.reward,
            rollout.valid,
            rollout.terminated | rollout.truncated,
            version,
            self.agent.task,
        )
        episodes = tuple(end.episode for end in ended)
        unroll = rollout.finish(header, self._first, version.number, episodes)
        self._row = 0
        self._rollout = self._new_rollout()
        last = self.seat.unroll_length
        mask = None if rollout.action_mask is None else rollout.action_mask[last]
        overlap = {name: array[last] for name, array in rollout.obs.items()}
        self._rollout.observed(0, overlap, mask, slice(None))
        self._first = self.agent.memory
        return unroll, ended

    def _new_rollout(self) -> Rollout:
        rollout = Rollout(
            self._spec,
            self.seat.unroll_length,
            self._numbers,
            distribution=self.seat.distribution,
        )
        rollout.task[:] = self.agent.task
        return rollout
