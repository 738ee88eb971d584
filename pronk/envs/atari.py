"""Atari games by ale_py's own vector environment.

Frames are 84×84 grey, stacked by four, of every fourth emulator frame; rewards are raw. What the id
`ALE/<Game>-v5` stands for is kept: sticky actions with probability 0.25, 30 minutes at most. Up to
30 no-ops and a FIRE where the game waits for one start an episode. Any of it changes by
`env.kwargs`.
"""

from functools import partial
from typing import Any

import numpy as np
from gymnasium.envs.registration import EnvSpec
from numpy.typing import NDArray

from pronk.config.schema import EnvConfig
from pronk.envs.failures import Tell, keep_quiet
from pronk.envs.slots import Arrays, Observation, StepResult
from pronk.envs.vector import VectorSlots
from pronk.wire.spec import EnvironmentSpec

_PICTURE: dict[str, Any] = {
    "grayscale": False,
    "img_height": 210,
    "img_width": 160,
    "stack_num": 1,
}


def is_atari(spec: EnvSpec) -> bool:
    """Whether ale_py's vector environment plays the game."""
    entry = spec.vector_entry_point
    return isinstance(entry, str) and entry.startswith("ale_py.")


def atari(config: EnvConfig, spec: EnvSpec, seeds: NDArray[np.int64], tell: Tell) -> VectorSlots:
    """One emulator per seed, stepped by one thread.

    Raises:
        TypeError: an argument that the environment does not take.
    """
    return _slots(config, spec, seeds, {}, tell)


class AtariRecorder:
    """One game, seen twice: as the policy sees it, and in colour.

    A second emulator of the same seed gets the same actions; all chance of a game comes from its
    seed, so both play the same episode.
    """

    def __init__(self, config: EnvConfig, spec: EnvSpec, seeds: NDArray[np.int64]) -> None:
        self._played = _slots(config, spec, seeds, {})
        self._filmed = _slots(config, spec, seeds, _PICTURE)
        self._frame = self._filmed.reset().obs

    @property
    def spec(self) -> EnvironmentSpec:
        """What the policy sees and does."""
        return self._played.spec

    @property
    def slots(self) -> int:
        """1."""
        return self._played.slots

    def reset(self) -> Observation:
        """The first episode."""
        return self._played.reset()

    def step(self, action: Arrays) -> StepResult:
        """Act in both emulators."""
        self._frame = self._filmed.step(action).obs
        return self._played.step(action)

    def render(self) -> NDArray[np.uint8]:
        """The screen, [210, 160, 3]."""
        (frames,) = self._frame.values()
        picture: NDArray[np.uint8] = frames[0, -1]
        return picture

    def close(self) -> None:
        """Close both emulators."""
        self._played.close()
        self._filmed.close()


def _slots(
    config: EnvConfig,
    spec: EnvSpec,
    seeds: NDArray[np.int64],
    changes: dict[str, Any],
    tell: Tell = keep_quiet,
) -> VectorSlots:
    from ale_py.vector_env import AtariVectorEnv

    arguments: dict[str, Any] = {"reward_clipping": False, "num_threads": 1}
    arguments |= {**spec.kwargs, **config.kwargs, **changes}
    frames = arguments.get("frameskip", 4)
    if config.max_episode_steps is not None:
        arguments["max_num_frames_per_episode"] = config.max_episode_steps * frames
    return VectorSlots(
        config.id,
        partial(AtariVectorEnv, num_envs=len(seeds), **arguments),
        seeds,
        config.step_seconds,
        as_seed=lambda seeds: seeds,
        frames_per_step=frames,
        tell=tell,
    )
