"""Real Valkeys to test against, one for as long as a `with` block lasts."""

import ctypes
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Self

from param_servers import eventually, free_port
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from pronk.transport.valkey import valkey_command

_HOST = "127.0.0.1"
_PR_SET_PDEATHSIG = 1


class EmbeddedValkey:
    """A server for as long as the `with` block lasts, and not longer than this process.

    On Linux the kernel ends it with the thread that started it: start it from the main one.

    Attributes:
        port: on loopback, free when it was chosen; kept over a restart.
    """

    def __init__(self, directory: Path, max_memory: int = 512 << 20) -> None:
        """Nothing is started yet; its log goes to `directory`."""
        self.port = free_port()
        self._directory = directory
        self._max_memory = max_memory
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """For `pronk.transport.redis.connect`."""
        return f"redis://{_HOST}:{self.port}/0"

    @property
    def pid(self) -> int | None:
        """Process id; None while it does not run."""
        return self._process.pid if self._process else None

    def start(self) -> None:
        """Start it and wait until it, and nobody else, answers on the port."""
        command = valkey_command(self.port, self._directory, self._max_memory)
        with (self._directory / "valkey.log").open("wb") as output:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                preexec_fn=_die_with_parent(),
            )
        no_retry = Retry(NoBackoff(), 0)
        with Redis(host=_HOST, port=self.port, socket_timeout=1, retry=no_retry) as client:
            eventually(lambda: self._answers(client))

    def stop(self) -> None:
        """End it."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()

    def _answers(self, client: Redis) -> bool:
        with suppress(RedisError):
            return bool(client.info("server")["process_id"] == self.pid)
        assert self._process is not None
        log = self._directory / "valkey.log"
        assert self._process.poll() is None, log.read_text(errors="replace")
        return False


def _die_with_parent() -> Callable[[], None] | None:
    """What to run between fork and exec so that the kernel ends the child with its parent."""
    if not sys.platform.startswith("linux"):
        return None
    # Looked up before the fork: the child must take no lock that another thread may hold.
    prctl = ctypes.CDLL(None).prctl

    def ask() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)

    return ask
