"""An embedded Valkey (or Redis) for one machine: nothing on disk, bounded, loopback only."""

from pathlib import Path
from types import TracebackType
from typing import Self


def valkey_command(port: int, directory: Path, max_memory: int) -> list[str]:
    """The command line of a server for the buffer.

    Args:
        port: on loopback.
        directory: its working directory; nothing is written there.
        max_memory: cap in bytes.

    Raises:
        Misconfigured: the machine has no server to start.
    """
    raise NotImplementedError


def die_with_parent() -> None:
    """For `preexec_fn`: have the kernel end this child when the thread that started it ends."""
    raise NotImplementedError


def free_port() -> int:
    """A TCP port that nobody listens on."""
    raise NotImplementedError


class EmbeddedValkey:
    """A server for as long as the `with` block lasts.

    Attributes:
        url: redis://127.0.0.1:port/0.
        pid: of the server.
    """

    def __init__(self, directory: Path, *, port: int = 0, max_memory: int = 512 << 20) -> None:
        raise NotImplementedError

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """Process id."""
        raise NotImplementedError

    def start(self) -> None:
        """Start it and wait until it answers.

        Raises:
            Misconfigured: the machine has no server to start, or it does not come up.
        """
        raise NotImplementedError

    def stop(self) -> None:
        """End it: SIGTERM, then SIGKILL."""
        raise NotImplementedError
