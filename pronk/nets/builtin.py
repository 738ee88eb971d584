"""Whether a built-in torso can be made; it takes no torch to tell, so it is told before a start."""

import difflib
from typing import Any

from pydantic import ValidationError

from pronk.config.explain import explain
from pronk.config.schema import NetworkConfig
from pronk.config.torsos import TORSOS
from pronk.errors import Misconfigured
from pronk.nets.images import image_size, is_image
from pronk.wire.spec import ArraySpec


def arguments(observation: tuple[ArraySpec, ...], config: NetworkConfig) -> dict[str, Any]:
    """Everything that the torso takes beside the observations' specs, defaults included.

    Raises:
        Misconfigured: unknown id, arguments that it does not take, or observations it cannot use.
    """
    description = TORSOS.get(config.id)
    if description is None:
        near = difflib.get_close_matches(config.id, TORSOS, 1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise Misconfigured(
            f"network.id: unknown network {config.id!r}; {hint}"
            f"there are {', '.join(TORSOS)}, or module:Class of your own"
        )
    try:
        taken = description.model_validate(config.kwargs)
    except ValidationError as error:
        why = explain(error, description)
        raise Misconfigured(f"network.kwargs: {config.id}: {why}") from None
    _check_images(observation, config.id, description.smallest_image)
    return dict(taken)


def _check_images(observation: tuple[ArraySpec, ...], torso: str, smallest: int) -> None:
    if not smallest:
        return
    images = [array for array in observation if is_image(array)]
    if not images:
        raise Misconfigured(
            f"network.id: {torso} needs an image, but the environment shows none; use mlp"
        )
    for array in images:
        if min(image_size(array)[1:]) < smallest:
            raise Misconfigured(
                f"network.id: observation {array.name!r} of shape {array.shape} is too small for "
                f"{torso}; use minatar or mlp"
            )
