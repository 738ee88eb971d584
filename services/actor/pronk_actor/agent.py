"""Acts for the slots of one policy, and keeps what its next step is fed with."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pronk.envs.slots import Arrays
from pronk.policy import sampling
from pronk.policy.engine import Engine
from pronk.policy.manifest import Manifest
from pronk.policy.signature import (
    ACTION_MASK,
    CORE,
    DISTRIBUTION,
    LAST_ACTION,
    LAST_REWARD,
    NEXT_CORE,
    OBSERVATION,
    RESET,
    TASK,
    group,
)
from pronk.wire.spec import ContinuousSpec, EnvironmentSpec


class PolicyVersion(NamedTuple):
    """Which version of a policy."""

    epoch: int
    number: int


@dataclass(frozen=True)
class ReadyPolicy:
    """A version that may act: its fingerprint was checked."""

    engine: Engine
    manifest: Manifest

    @property
    def version(self) -> PolicyVersion:
        """Which version it is."""
        return PolicyVersion(self.manifest.epoch, self.manifest.number)


@dataclass(frozen=True)
class Choice:
    """What an agent chose for its N slots."""

    action: Arrays
    """{name: [N, …]} as the policy chose it."""
    log_prob: NDArray[np.float32]
    """[N]"""
    params: Arrays
    """{action: [N, P]}"""


@dataclass(frozen=True)
class Memory:
    """What a step is fed with beside the observation, [N, …]: the inputs of an unroll's row 0."""

    core_state: Arrays
    last_action: Arrays
    last_reward: NDArray[np.float32]
    reset: NDArray[np.bool_]


class Agent:
    """N slots that act with one version at a time.

    Before the first observation of an episode, `reset` is set and the last action and reward are
    zero; the core state is handed over as it is, since the policy zeroes it itself where `reset`
    is set.
    """

    def __init__(
        self,
        spec: EnvironmentSpec,
        slots: int,
        policy: ReadyPolicy,
        rng: np.random.Generator,
        *,
        greedy: bool = False,
    ) -> None:
        """Start with a policy, before the first observation of an episode in every slot.

        Args:
            spec: the environment's.
            slots: N.
            policy: to act with first.
            rng: of the actions; unused where `greedy`.
            greedy: take the most likely action instead of drawing one.
        """
        self._spec = spec
        self._slots = slots
        self._rng = rng
        self._greedy = greedy
        self._zero_action = {
            action.name: np.zeros(
                (slots, *action.shape),
                np.float32 if isinstance(action, ContinuousSpec) else np.int64,
            )
            for action in spec.action
        }
        self._inputs: dict[str, NDArray[Any]] = {TASK: np.zeros(slots, np.int32)}
        self.policy = policy
        self.restart()

    def restart(self) -> None:
        """Forget everything: every slot is before the first observation of an episode."""
        shapes = self.policy.manifest.core
        core = {k: np.zeros((self._slots, *shape), np.float32) for k, shape in shapes.items()}
        self.memory = Memory(
            core,
            self._zero_action,
            np.zeros(self._slots, np.float32),
            np.ones(self._slots, np.bool_),
        )

    @property
    def task(self) -> NDArray[np.int32]:
        """[N] task of each slot."""
        return self._inputs[TASK]

    def adopt(self, policy: ReadyPolicy) -> None:
        """Act with another version from the next step on. Only between unrolls."""
        self.policy = policy

    def act(self, obs: Arrays, action_mask: NDArray[np.bool_] | None) -> Choice:
        """Choose actions for the observations {name: [N, …]} and masks [N, A]."""
        memory, inputs = self.memory, self._inputs
        for name, array in obs.items():
            inputs[OBSERVATION + name] = array
        for name, array in memory.core_state.items():
            inputs[CORE + name] = array
        for name, array in memory.last_action.items():
            inputs[LAST_ACTION + name] = array
        inputs[LAST_REWARD] = memory.last_reward
        inputs[RESET] = memory.reset
        if action_mask is not None:
            inputs[ACTION_MASK] = action_mask
        outputs = self.policy.engine.step(inputs)
        self._next_core = group(outputs, NEXT_CORE)
        params = group(outputs, DISTRIBUTION)
        actions = self._spec.action
        if self._greedy:
            action = sampling.mode(actions, params)
            return Choice(action, sampling.log_prob(actions, params, action), params)
        action, log_prob = sampling.sample(actions, params, self._rng)
        return Choice(action, log_prob, params)

    def observe(
        self, action: Arrays, reward: NDArray[np.float32], was_dead: NDArray[np.bool_]
    ) -> None:
        """Remember what followed; the arrays are kept and must not change any more.

        Args:
            action: {name: [N, …]} that was chosen.
            reward: [N] that followed.
            was_dead: [N] the step was a reset transition, or failed, so the next observation is
                the first of an episode.
        """
        if was_dead.any():
            alive = ~was_dead
            reward = reward * alive
            action = {name: _zeroed(array, alive) for name, array in action.items()}
        self.memory = Memory(self._next_core, action, reward, was_dead)


def _zeroed(array: NDArray[Any], alive: NDArray[np.bool_]) -> NDArray[Any]:
    kept: NDArray[Any] = array * alive.reshape(-1, *(1,) * (array.ndim - 1))
    return kept.astype(array.dtype, copy=False)
