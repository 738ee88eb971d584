"""From the experiment's environment to slots."""

from collections.abc import Sequence
from functools import partial

import numpy as np
from gymnasium.envs.registration import EnvSpec
from numpy.typing import NDArray

from pronk.config.schema import EnvConfig, Vectorization
from pronk.envs import registry
from pronk.envs.atari import AtariRecorder, atari, is_atari
from pronk.envs.failures import Tell, keep_quiet
from pronk.envs.processes import ProcessSlots, processes
from pronk.envs.single import frames_per_step, single
from pronk.envs.slots import Recorder, SlotEnv
from pronk.envs.sync import SyncSlots
from pronk.envs.vector import VectorSlots, native
from pronk.errors import Misconfigured
from pronk.wire.spec import EnvironmentSpec


def describe(config: EnvConfig) -> EnvironmentSpec:
    """What the environment shows and takes; makes and resets one to find out.

    Raises:
        Misconfigured: it does not exist, cannot be made here, or has spaces that are no arrays.
    """
    if config.vectorization is Vectorization.ASYNC:
        config = config.model_copy(update={"vectorization": Vectorization.SYNC})
    env = make(config, 1, 0)
    env.close()
    return env.spec


def make(
    config: EnvConfig, slots: int, seed: int | Sequence[int], tell: Tell = keep_quiet
) -> SlotEnv:
    """N slots of the environment.

    Args:
        config: the experiment's.
        slots: N.
        seed: of `np.random.SeedSequence`; slots get independent seeds from it.
        tell: hears of every failure of an environment, from any thread.

    Raises:
        Misconfigured: see `describe`.
    """
    seeds = _seeds(seed, slots)
    spec = _native_spec(config)
    if spec is not None:
        with registry.building(f"environment {config.id}"):
            if is_atari(spec):
                return atari(config, spec, seeds, tell)
            kwargs = dict(config.kwargs)
            if config.max_episode_steps is not None:
                kwargs["max_episode_steps"] = config.max_episode_steps
            return VectorSlots(
                config.id,
                partial(native, spec.id, slots, kwargs),
                seeds,
                config.step_seconds,
                as_seed=lambda seeds: int(seeds[0]),
                tell=tell,
            )
    if config.vectorization is Vectorization.ASYNC:
        return _async(config, seeds, tell)
    with registry.building(f"environment {config.id}"):
        build = partial(single, config)
        return SyncSlots(config.id, build, seeds.tolist(), config.step_seconds, tell)


def record(config: EnvConfig, seed: int | Sequence[int]) -> Recorder:
    """One slot that can be looked at.

    Raises:
        Misconfigured: see `describe`; or the environment draws no pictures, or lacks a package.
    """
    seeds = _seeds(seed, 1)
    spec = _native_spec(config)
    if spec is not None and is_atari(spec):
        with registry.building(f"environment {config.id}"):
            return AtariRecorder(config, spec, seeds)
    with registry.building(f"environment {config.id}"):
        build = partial(single, config, render_mode="rgb_array")
        return SyncSlots(config.id, build, seeds.tolist(), config.step_seconds)


def _async(config: EnvConfig, seeds: NDArray[np.int64], tell: Tell) -> ProcessSlots:
    build = partial(single, config)
    probe = build()  # errors are clearer here than in a child
    probe.close()
    shown, taken = probe.observation_space, probe.action_space
    with registry.building(f"environment {config.id}"):
        return ProcessSlots(
            config.id,
            partial(processes, build, shown, taken, seeds.tolist()),
            seeds,
            config.step_seconds,
            as_seed=lambda seeds: seeds.tolist(),
            frames_per_step=frames_per_step(probe),
            tell=tell,
        )


def _native_spec(config: EnvConfig) -> EnvSpec | None:
    """The registered environment whose own vector implementation is to be used, if any.

    Raises:
        Misconfigured: `native` was asked for and is not to be had.
    """
    if config.vectorization in (Vectorization.SYNC, Vectorization.ASYNC):
        return None
    found = registry.resolve(config.id)
    if isinstance(found, EnvSpec) and found.vector_entry_point and not config.wrappers:
        return found
    if config.vectorization is Vectorization.NATIVE:
        why = "takes no wrappers" if config.wrappers else "does not exist"
        raise Misconfigured(
            f"env.vectorization: {config.id}'s own vector implementation {why}; choose auto"
        )
    return None


def _seeds(seed: int | Sequence[int], slots: int) -> NDArray[np.int64]:
    """[slots] independent seeds below 2³¹, which every environment takes."""
    words = np.random.SeedSequence(seed).generate_state(slots, np.uint32)
    return (words >> 1).astype(np.int64)
