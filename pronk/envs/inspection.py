"""Is what N slots show something that a policy can be fed with and a learner will take?"""

from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pronk.envs.failures import Reason, Unusable
from pronk.envs.slots import Arrays
from pronk.wire.bounds import MAX_FLOAT
from pronk.wire.spec import ActionSpec, ArraySpec, DiscreteSpec


class Inspector:
    """Looks at all slots at once, and at single ones only when something is wrong.

    The learner refuses a whole unroll for what is found here in one slot.
    """

    def __init__(self, observation: Sequence[ArraySpec], action: Sequence[ActionSpec]) -> None:
        """Expect what the specs say."""
        self._floats = [spec.name for spec in observation if np.dtype(spec.dtype).kind == "f"]
        self._bounded = [spec for spec in observation if _is_bounded(spec)]
        choices = [spec.choices for spec in action if isinstance(spec, DiscreteSpec)]
        self._first_of_choice = np.cumsum([0, *chain.from_iterable(choices)])[:-1]

    def faults(
        self,
        obs: Arrays,
        reward: NDArray[np.float32],
        action_mask: NDArray[np.bool_] | None = None,
        ended: NDArray[np.bool_] | None = None,
    ) -> dict[int, Unusable]:
        """What is wrong, by slot; empty when nothing is.

        Args:
            obs: {name: [N, …]}
            reward: [N]
            action_mask: [N, A]
            ended: [N] the episode is over, so that no action needs to be allowed.
        """
        faults: dict[int, Unusable] = {}
        if not _moderate(reward):
            _blame_wild(faults, "the reward", reward)
        for name in self._floats:
            if not _moderate(obs[name]):
                _blame_wild(faults, f"observation {name!r}", obs[name])
        for spec in self._bounded:
            array = obs[spec.name]
            if array.min() < spec.low or array.max() > spec.high:
                said = f"observation {spec.name!r} is not within {spec.low:g} to {spec.high:g}"
                _blame(faults, _any((array < spec.low) | (array > spec.high)), "range", said)
        if action_mask is not None:
            stuck = ~np.logical_or.reduceat(action_mask, self._first_of_choice, axis=1).all(1)
            if ended is not None:
                stuck &= ~ended
            _blame(faults, stuck, "range", 'info["action_mask"] allows no action at all')
        return faults


def _moderate(array: NDArray[np.floating]) -> bool:
    """Nothing beyond `MAX_FLOAT`, surely; four times as quick as looking at every element.

    No element is larger than the root of the sum of all squares. Where that is too large, or no
    number, the elements have to be looked at.
    """
    flat = array.ravel("K")
    return float(flat.dot(flat)) <= MAX_FLOAT**2


def _is_bounded(spec: ArraySpec) -> bool:
    dtype = np.dtype(spec.dtype)
    if dtype.kind not in "iu":
        return False
    limits = np.iinfo(dtype)
    return spec.low > limits.min or spec.high < limits.max


def _any(wrong: Any) -> Any:
    """[N] from [N, …]: whether anything of a slot is."""
    return wrong.reshape(len(wrong), -1).any(1)


def _blame_wild(faults: dict[int, Unusable], what: str, array: NDArray[np.floating]) -> None:
    """[N, …]: blame the slots whose numbers a learner would not take."""
    _blame(faults, _any(~np.isfinite(array)), "non_finite", f"{what} is not finite")
    beyond = np.abs(array, dtype=np.float64) > MAX_FLOAT
    _blame(faults, _any(beyond), "range", f"{what} is not within ±{MAX_FLOAT:g}")


def _blame(faults: dict[int, Unusable], slots: Any, reason: Reason, said: str) -> None:
    for slot in np.flatnonzero(slots).tolist():
        faults.setdefault(slot, Unusable(reason, said))
