"""What a manifest keeps of an output on the probe batch: few numbers, in which every number counts.

The learner makes them of torch's outputs and an actor, without torch, of its engine's.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

NUMBERS = 256
"""Numbers that are kept of an output, at most."""
_MASKED = -1e9
"""`pronk.nets.heads.MASKED`, which needs torch."""
_GOLDEN = (5**0.5 - 1) / 2


def condense(output: NDArray[Any]) -> NDArray[Any]:
    """An output [N, …] as [N, C] where it is small, else [1, NUMBERS] sums of its numbers.

    Each number is in one of the sums, and each of a sum has another factor, of size 1 to 2: so a
    difference in any of them shows, and two cannot take each other's places. The factors' signs
    take turns: what all numbers have in common does not make the sums large, and differences small
    beside them. Logits of masked choices are left out, for beside them nothing else would be seen.
    """
    table = output.reshape(len(output), -1)
    if table.size <= NUMBERS:
        return table
    numbers = table.ravel().astype(np.float64)
    numbers[numbers == _MASKED] = 0.0
    places = np.arange(len(numbers))
    factors = (1 + places * _GOLDEN % 1) * np.where(places // NUMBERS % 2, -1, 1)
    sums = np.bincount(places % NUMBERS, numbers * factors, NUMBERS)
    return sums.astype(np.float32)[None]
