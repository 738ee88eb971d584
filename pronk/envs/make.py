"""From the experiment's environment to slots."""

from collections.abc import Sequence

import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import AsyncVectorEnv

from pronk.config.schema import EnvConfig, Vectorization
from pronk.envs import registry
from pronk.envs.atari import AtariRecorder, atari, is_atari
from pronk.envs.single import frames_per_step, single, workers
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


def make(config: EnvConfig, slots: int, seed: int | Sequence[int]) -> SlotEnv:
    """N slots of the environment.

    Args:
        config: the experiment's.
        slots: N.
        seed: of `np.random.SeedSequence`; slots get independent seeds from it.

    Raises:
        Misconfigured: see `describe`.
    """
    seeds = _seeds(seed, slots)
    spec = _native_spec(config)
    if spec is not None:
        with registry.building(f"environment {config.id}"):
            if is_atari(spec):
                return atari(config, spec, seeds)
            kwargs = dict(config.kwargs)
            if config.max_episode_steps is not None:
                kwargs["max_episode_steps"] = config.max_episode_steps
            return VectorSlots(config.id, native(spec.id, slots, kwargs), int(seeds[0]))
    if config.vectorization is Vectorization.ASYNC:
        return _async(config, seeds.tolist())
    envs = [single(config) for _ in range(slots)]
    with registry.building(f"environment {config.id}"):
        return SyncSlots(config.id, envs, seeds.tolist())


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
    env = single(config, render_mode="rgb_array")
    with registry.building(f"environment {config.id}"):
        return SyncSlots(config.id, [env], seeds.tolist())


def _async(config: EnvConfig, seeds: Sequence[int]) -> VectorSlots:
    probe = single(config)  # errors are clearer here than in a child
    frames = frames_per_step(probe)
    probe.close()
    with registry.building(f"environment {config.id}"):
        # Spawned, not forked: this process has threads. Copies are the caller's to make.
        env = AsyncVectorEnv(workers(config, len(seeds)), copy=False, context="spawn")
        return VectorSlots(config.id, env, seeds, frames)


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


def _seeds(seed: int | Sequence[int], slots: int) -> np.ndarray:
    """[slots] independent seeds below 2³¹, which every environment takes."""
    words = np.random.SeedSequence(seed).generate_state(slots, np.uint32)
    return (words >> 1).astype(np.int64)
