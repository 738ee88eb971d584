"""Actions from distribution parameters, in numpy: what an actor does at every step."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pronk.wire.spec import ActionSpec

Arrays = dict[str, NDArray[Any]]
Parameters = Mapping[str, NDArray[np.float32]]


def sample(
    actions: tuple[ActionSpec, ...], params: Parameters, rng: np.random.Generator
) -> tuple[Arrays, NDArray[np.float32]]:
    """Draw actions.

    Args:
        actions: the environment's.
        params: {action: [N, P]}.
        rng: the only source of chance.

    Returns:
        {action: [N, …]} (int64 discrete, float32 continuous) and their joint log-probability [N].
    """
    raise NotImplementedError


def mode(actions: tuple[ActionSpec, ...], params: Parameters) -> Arrays:
    """The most likely actions, {action: [N, …]}."""
    raise NotImplementedError


def log_prob(
    actions: tuple[ActionSpec, ...], params: Parameters, action: Mapping[str, NDArray[Any]]
) -> NDArray[np.float32]:
    """Joint log-probability […] of actions {name: […, …]} under params {name: […, P]}."""
    raise NotImplementedError
