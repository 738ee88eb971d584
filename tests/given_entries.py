"""What a learner's ingest sees of a buffer, without one."""

from collections.abc import Sequence

from pronk.transport.buffer import Entry


class GivenEntries:
    """A buffer that holds these payloads; nothing is waited for."""

    def __init__(self, payloads: Sequence[bytes]) -> None:
        self._entries = [Entry(str(n).encode(), payload, 1) for n, payload in enumerate(payloads)]
        self.acknowledged: list[bytes] = []

    def read(self, count: int, block_ms: int) -> list[Entry]:
        """The next ones."""
        taken, self._entries = self._entries[:count], self._entries[count:]
        return taken

    def ack(self, ids: Sequence[bytes]) -> int:
        """Remembered."""
        self.acknowledged.extend(ids)
        return len(ids)
