"""How an unroll is cut into entries of the buffer, and how large one is before it is played."""

import itertools
import math

import numpy as np

from pronk.wire.spec import ContinuousSpec, EnvironmentSpec

ENTRY_BYTES = 1 << 20
"""An entry of the buffer stays below it where a single slot does."""
_HEADER_BYTES = 16 << 10


def groups(slots: int, slot_bytes: int, limit: int = ENTRY_BYTES) -> list[slice]:
    """Neighbouring slots that share an entry of `limit` bytes: as few groups as fit, of one size.

    Sizes differ by one slot at most: a buffer that counts entries must not fill with tiny ones.

    Args:
        slots: of the unroll.
        slot_bytes: of the arrays of one of them.
        limit: bytes, header included; a single slot may be above.
    """
    most = max(1, (limit - _HEADER_BYTES) // slot_bytes)
    count = -(-slots // most)
    edges = [slots * index // count for index in range(count + 1)]
    return [slice(start, stop) for start, stop in itertools.pairwise(edges)]


def slot_bytes(
    spec: EnvironmentSpec, unroll_length: int, *, core_floats: int = 0, distribution: bool = False
) -> int:
    """Bytes of the arrays of one slot's unroll, uncompressed.

    Args:
        spec: the environment's.
        unroll_length: T.
        core_floats: elements of the core state.
        distribution: the behaviour's parameters are shipped.
    """
    observation = sum(np.dtype(a.dtype).itemsize * math.prod(a.shape) for a in spec.observation)
    action = sum(
        4 * a.size if isinstance(a, ContinuousSpec) else 8 * math.prod(a.shape) for a in spec.action
    )
    seen = observation + (spec.mask_size if spec.action_mask else 0) + 4  # and the task
    # Log-probability, reward, terminated, truncated, valid, version.
    played = action + 4 + 4 + 3 + 8
    if distribution:
        played += sum(4 * a.parameters for a in spec.action)
    # Memory: core state, last action, last reward, reset; and the slot's number.
    first = 4 * core_floats + action + 4 + 1 + 4
    return (unroll_length + 1) * seen + unroll_length * played + first
