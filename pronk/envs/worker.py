"""One environment in a process of its own, as AsyncVectorEnv runs it."""

import ctypes
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from pronk.envs.actions import ActionLayout
from pronk.envs.failures import ERRORS, PATIENCE, failure, persist
from pronk.envs.inspection import Inspector
from pronk.envs.masks import MASK, mask_row
from pronk.envs.observations import ObservationLayout
from pronk.wire.spec import DiscreteSpec

FAILED = "pronk_failures"
"""Key of the infos: [(reason, one line)] of what failed in this step."""
Info = dict[str, Any]


class Worker(gymnasium.Env[dict[str, Any], Any]):
    """Shows the named arrays of an environment and builds a new one when it fails.

    Observations are flat, since shared memory takes no other spaces. Of the infos only the action
    mask is passed on.
    """

    def __init__(
        self,
        build: Callable[[], gymnasium.Env[Any, Any]],
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        seed: int,
    ) -> None:
        """Build nothing yet: what fails then could not be told.

        Args:
            build: makes an environment.
            observation_space: the environment's.
            action_space: the environment's.
            seed: of the environments that come after the first.
        """
        parent = multiprocessing.parent_process()
        if parent is not None:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
            _die_with(parent.pid)
        self._build = build
        self._env: gymnasium.Env[Any, Any] | None = None
        self._layout = ObservationLayout(observation_space)
        actions = ActionLayout(action_space).specs
        self._inspector = Inspector(self._layout.specs, actions)
        self._mask_size = sum(a.parameters for a in actions if isinstance(a, DiscreteSpec))
        self._obs = self._layout.empty(1)
        self._write = self._layout.writer(self._obs)
        self._later_seeds = np.random.default_rng(seed)
        self.observation_space = spaces.Dict(self._layout.spaces)
        self.action_space = action_space

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, Info]:
        """Start an episode, with a new environment if it must be."""
        try:
            return self._began(seed)
        except ERRORS as error:
            return self._renewed(error)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, Info]:
        """Act once; where that fails, begin anew and say so under `FAILED`."""
        try:
            assert self._env is not None  # noqa: S101 - for the type checker; reset comes first
            seen, reward, terminated, truncated, info = self._env.step(action)
            gained, over, cut = float(reward), bool(terminated), bool(truncated)
            obs, info = self._checked(seen, info, gained, ended=over or cut)
            return obs, gained, over, cut, info
        except ERRORS as error:
            obs, info = self._renewed(error)
            return obs, 0.0, False, False, info

    def close(self) -> None:
        """Close the environment."""
        if self._env is not None:
            with suppress(*ERRORS):
                self._env.close()

    def _began(self, seed: int | None) -> tuple[Any, Info]:
        if self._env is None:
            self._env = self._build()
        seen, info = self._env.reset(seed=seed)
        return self._checked(seen, info)

    def _replaced(self) -> tuple[Any, Info]:
        self.close()
        self._env = None
        return self._began(int(self._later_seeds.integers(2**31)))

    def _renewed(self, error: BaseException) -> tuple[Any, Info]:
        """What a new environment shows; the parent gives up where there were too many failures."""
        told: list[tuple[str, str]] = []

        def note(why: BaseException) -> None:
            told.append(failure(None, why)[1:])
            if len(told) == PATIENCE:
                raise _Enough

        try:
            obs, info = persist(error, note, self._replaced)
        except _Enough:
            obs, info = {name: array[0] for name, array in self._layout.empty(1).items()}, {}
        return obs, info | {FAILED: told}

    def _checked(
        self, seen: Any, info: Info, reward: float = 0.0, *, ended: bool = False
    ) -> tuple[Any, Info]:
        """The named arrays and the mask of what an environment showed.

        Raises:
            Unusable: it is not what its space says.
        """
        self._write(0, seen)
        rewards = np.array([reward], np.float32)
        mask, kept = None, {}
        if MASK in info:
            kept[MASK] = mask_row(info[MASK], self._mask_size)
            mask = kept[MASK][None]
        faults = self._inspector.faults(self._obs, rewards, mask, np.array([ended]))
        if faults:
            raise faults[0]
        return self._layout.single(seen), kept


def _die_with(parent: int | None) -> None:
    """Be killed when the parent is: in a step that does not come back nobody would notice."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:  # it was too late
        os._exit(1)


class _Enough(BaseException):
    """The parent has to give up."""
