"""Which unrolls were trained on, and how far: none counts twice, whoever dies meanwhile."""

from collections.abc import Mapping, Sequence

from pronk.wire.unroll import UnrollHeader

_UNROLLS = 128
"""Newest unrolls of a member that are remembered; what comes again is among its last few."""
_MEMBERS = 4096


class Trained:
    """How many slots of each recent unroll the weights rest on; a checkpoint keeps it.

    An unroll comes again when its learner died before it was acknowledged, or when the buffer came
    back empty while its actor waited for an answer.

    Args:
        saved: {member: [(sequence, slots), …]} as `saved` gave it.
    """

    def __init__(self, saved: Mapping[str, Sequence[tuple[int, int]]] | None = None) -> None:
        self._slots = {member: dict(pairs) for member, pairs in (saved or {}).items()}

    def slots(self, header: UnrollHeader) -> int:
        """Slots of the unroll that were trained on, from its first on."""
        return self._slots.get(header.member, {}).get(header.sequence, 0)

    def add(self, header: UnrollHeader, slots: int) -> None:
        """The unroll's first `slots` slots are trained on."""
        unrolls = self._slots.pop(header.member, {})
        unrolls[header.sequence] = slots
        if len(unrolls) > _UNROLLS:
            del unrolls[min(unrolls)]
        self._slots[header.member] = unrolls  # now the last: the first was heard of longest ago
        if len(self._slots) > _MEMBERS:
            del self._slots[next(iter(self._slots))]

    def saved(self) -> dict[str, list[tuple[int, int]]]:
        """All of it, for a checkpoint."""
        return {member: list(unrolls.items()) for member, unrolls in self._slots.items()}
