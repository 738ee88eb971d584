"""Masks of allowed actions, as environments give them in `info["action_mask"]`."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pronk.envs.failures import Unusable

MASK = "action_mask"


def mask_row(given: Any, size: int) -> NDArray[np.bool_]:
    """The mask of one slot, [size] over the logits of all discrete actions.

    Args:
        given: one array, or one per choice; None where the environment gave none, which allows
            everything (a final observation has no next action).
        size: number of logits.

    Raises:
        Unusable: the mask has another width.
    """
    if given is None:
        return np.ones(size, np.bool_)
    parts = given if isinstance(given, tuple | list) else (given,)
    row = np.concatenate([np.ravel(part) for part in parts])
    if row.size != size:
        raise Unusable(
            "shape",
            f'info["action_mask"] has {row.size} entries, the discrete actions have {size} choices',
        )
    return row.astype(np.bool_)
