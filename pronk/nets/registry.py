"""From `network.id` to a torso."""

import difflib
import inspect
from collections.abc import Callable

from torch import nn

from pronk.config.schema import NetworkConfig
from pronk.errors import Misconfigured
from pronk.imports import import_attribute
from pronk.nets.torsos import TORSOS, Observation


def build_torso(observation: Observation, config: NetworkConfig) -> tuple[nn.Module, int]:
    """The torso of an experiment and the width of its features.

    Raises:
        Misconfigured: unknown id, arguments that it does not take, or observations it cannot use.
    """
    factory = TORSOS.get(config.id) or _imported(config.id)
    try:
        inspect.signature(factory).bind(observation, **config.kwargs)
    except TypeError as error:
        raise Misconfigured(f"network.kwargs: {config.id} {error}") from None
    try:
        torso = factory(observation, **config.kwargs)
    except (TypeError, RuntimeError, ArithmeticError) as error:
        raise Misconfigured(f"network.kwargs: {config.id}: {_first_line(error)}") from error
    size = getattr(torso, "output_size", None)
    if not isinstance(torso, nn.Module) or not isinstance(size, int):
        raise Misconfigured(
            f"network.id: {config.id} must give a torch Module with an integer `output_size`"
        )
    return torso, size


def _imported(name: str) -> Callable[..., nn.Module]:
    if ":" not in name:
        near = difflib.get_close_matches(name, TORSOS, 1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise Misconfigured(
            f"network.id: unknown network {name!r}; {hint}"
            f"there are {', '.join(TORSOS)}, or module:Class of your own"
        )
    factory = import_attribute(name, "network.id")
    if not callable(factory):
        raise Misconfigured(f"network.id: {name!r} is not a class")
    made: Callable[..., nn.Module] = factory
    return made


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
