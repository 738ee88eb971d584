"""From `network.id` to a torso."""

import inspect
from collections.abc import Callable

from torch import nn

from pronk.config.schema import NetworkConfig
from pronk.errors import Misconfigured
from pronk.imports import import_attribute
from pronk.nets import builtin
from pronk.nets.torsos import TORSOS, Observation


def build_torso(observation: Observation, config: NetworkConfig) -> tuple[nn.Module, int]:
    """The torso of an experiment and the width of its features.

    Raises:
        Misconfigured: unknown id, arguments that it does not take, or observations it cannot use.
    """
    if ":" in config.id:
        factory, kwargs = _imported(config), config.kwargs
    else:
        kwargs = builtin.arguments(observation, config)
        factory = TORSOS[config.id]
    try:
        torso = factory(observation, **kwargs)
    except (TypeError, RuntimeError, ArithmeticError) as error:
        raise Misconfigured(f"network.kwargs: {config.id}: {_first_line(error)}") from error
    size = getattr(torso, "output_size", None)
    if not isinstance(torso, nn.Module) or not isinstance(size, int):
        raise Misconfigured(
            f"network.id: {config.id} must give a torch Module with an integer `output_size`"
        )
    return torso, size


def _imported(config: NetworkConfig) -> Callable[..., nn.Module]:
    """The user's own, which takes the arguments that it is to be made with."""
    factory = import_attribute(config.id, "network.id")
    if not callable(factory):
        raise Misconfigured(f"network.id: {config.id!r} is not a class")
    try:
        inspect.signature(factory).bind((), **config.kwargs)
    except TypeError as error:
        raise Misconfigured(f"network.kwargs: {config.id} {error}") from None
    made: Callable[..., nn.Module] = factory
    return made


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
