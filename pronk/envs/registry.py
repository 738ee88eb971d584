"""From `env.id` to something that makes environments, with errors that say what to do."""

import copy
import difflib
import importlib
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import gymnasium
from gymnasium.envs.registration import EnvSpec

from pronk.errors import Broken, Misconfigured
from pronk.imports import check_module

Factory = Callable[..., gymnasium.Env[Any, Any]]


class _Family(NamedTuple):
    """Environments of a package that registers them when it is imported."""

    prefixes: tuple[str, ...]
    module: str
    extra: str


_FAMILIES = (
    _Family(("ALE/",), "ale_py", "atari"),
    _Family(("MinAtar/",), "minatar.gym", "minatar"),
    _Family(("MiniGrid-", "BabyAI-"), "minigrid", "minigrid"),
)


def resolve(env_id: str) -> EnvSpec | Factory:
    """What `env_id` names: a registered environment or a user's function.

    `module:function` is imported; `module:Id-v0` is an id that the import registers.

    Raises:
        Misconfigured: unknown id, missing package, module or function.
    """
    module, colon, name = env_id.rpartition(":")
    if colon:
        factory = getattr(_user_module(module, env_id), name, None)
        if factory is None and name in gymnasium.registry:
            return copy.deepcopy(gymnasium.registry[name])
        if not callable(factory):
            raise Misconfigured(f"env.id: {module} has no function {name!r}")
        made: Factory = factory
        return made
    family = _register_family(env_id)
    if env_id not in gymnasium.registry:
        raise Misconfigured(f"env.id: unknown environment {env_id!r}{_nearest(env_id, family)}")
    return copy.deepcopy(gymnasium.registry[env_id])


@contextmanager
def building(what: str) -> Iterator[None]:
    """Turn whatever a constructor raises into one line for a person.

    Raises:
        Misconfigured: the block raised anything.
    """
    try:
        with warnings.catch_warnings():
            # Gymnasium's advice on versions and checkers; the experiment says what it wants.
            warnings.simplefilter("ignore")
            yield
    except Misconfigured:
        raise
    except Broken as error:
        raise Misconfigured(str(error)) from error
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        said = " ".join(str(error).split())
        raise Misconfigured(
            f"cannot make {what}: {type(error).__name__}: {said} ({last.filename}:{last.lineno})"
        ) from error


def _register_family(env_id: str) -> _Family | None:
    for family in _FAMILIES:
        if not env_id.startswith(family.prefixes):
            continue
        try:
            module = importlib.import_module(family.module)
        except ModuleNotFoundError as error:
            raise Misconfigured(
                f"env.id: {env_id} needs the package {error.name}: "
                f"pip install 'pronk[{family.extra}]'"
            ) from None
        if family.module == "minatar.gym" and "MinAtar/Breakout-v0" not in gymnasium.registry:
            module.register_envs()  # this one does not register when imported
        return family
    return None


def _nearest(env_id: str, family: _Family | None) -> str:
    known = list(gymnasium.registry)
    by_name = {known_id.rpartition("/")[2]: known_id for known_id in known}
    name = env_id.rpartition("/")[2]
    if name in by_name:  # only its namespace is missing or wrong
        return f"; did you mean {by_name[name]}?"
    if near := difflib.get_close_matches(env_id, known, n=1, cutoff=0.5):
        return f"; did you mean {near[0]}?"
    return "" if family else "; give a Gymnasium id, or module:function of your own"


def _user_module(module: str, env_id: str) -> Any:
    check_module(module, env_id, "env.id")
    try:
        return importlib.import_module(module)
    except ImportError as error:
        missing = getattr(error, "name", None)
        if missing == module.partition(".")[0]:
            why = "there is no such module here or among the installed ones"
        else:
            why = str(error)
        raise Misconfigured(f"env.id: cannot import {module} of {env_id!r} ({why})") from None
