"""One Gymnasium environment, as the experiment describes it."""

import math
from typing import Any

import gymnasium
from gymnasium.wrappers import TimeLimit

from pronk.config.schema import EnvConfig
from pronk.envs.registry import building, resolve
from pronk.errors import Misconfigured
from pronk.imports import import_attribute

Env = gymnasium.Env[Any, Any]


def single(config: EnvConfig, render_mode: str | None = None) -> Env:
    """Make one environment.

    Gymnasium's checking wrappers are left out: they cost up to a quarter of a cheap step, and what
    they look for is looked for here once.

    Args:
        config: id, arguments, wrappers (innermost first), limit of steps.
        render_mode: Gymnasium's; None for environments that nobody looks at.

    Raises:
        Misconfigured: the environment or a wrapper does not exist or cannot be made.
    """
    kwargs = dict(config.kwargs)
    if render_mode is not None:
        kwargs["render_mode"] = render_mode
    found = resolve(config.id)
    with building(f"environment {config.id}"):
        if isinstance(found, gymnasium.envs.registration.EnvSpec):
            found.order_enforce = False
            found.disable_env_checker = True
            env = gymnasium.make(found, max_episode_steps=config.max_episode_steps, **kwargs)
        else:
            env = found(**kwargs)
    if not isinstance(env, gymnasium.Env):
        raise Misconfigured(
            f"env.id: {config.id} gave a {type(env).__name__} and not a Gymnasium environment"
        )
    if config.max_episode_steps and not isinstance(found, gymnasium.envs.registration.EnvSpec):
        env = TimeLimit(env, config.max_episode_steps)
    return _wrapped(env, config)


def frames_per_step(env: Env) -> int:
    """Environment frames per decision: how often wrappers and Atari's emulator repeat an action.

    MuJoCo's own `frame_skip` counts steps of physics, which nobody calls frames.
    """
    frames = 1
    while isinstance(env, gymnasium.Wrapper):
        frames *= _repeats(env, "frame_skip", "_skip")
        env = env.env
    return frames * _repeats(env, "_frameskip")


def _repeats(env: Env, *names: str) -> int:
    found = (vars(env).get(name) for name in names)
    return math.prod(skip for skip in found if isinstance(skip, int))


def _wrapped(env: Env, config: EnvConfig) -> Env:
    for index, wrapper in enumerate(config.wrappers):
        wrap = import_attribute(wrapper.id, f"env.wrappers.{index}.id")
        with building(f"wrapper {wrapper.id}"):
            env = wrap(env, **wrapper.kwargs)
    return env
