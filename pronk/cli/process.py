"""One child process: in a session of its own, logged to a file, dead when its parent is."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from pronk.errors import Misconfigured

_LOG_LIMIT = 32 << 20
_TAIL_BYTES = 8192
_TIDY_SECONDS = 2.0

# Runs between fork and the program itself. `preexec_fn` would run Python in a forked process
# whose parent has threads; a fresh interpreter is safe, and the kernel keeps the wish over exec.
# The parent may have died before the wish was made, hence the second look.
_DIE_WITH_PARENT = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGKILL)
if os.getppid() != int(sys.argv[1]): sys.exit(1)
try: os.execvp(sys.argv[2], sys.argv[2:])
except OSError as error:
    print(f"pronk: cannot run {sys.argv[2]}: {error.strerror}")
    sys.exit(2)
"""


@dataclass(frozen=True)
class Program:
    """What to run and how to end it.

    Attributes:
        name: unique in a cluster, for example `actor-0`; names the log too.
        command: argument vector; the first is looked up on PATH.
        environment: the whole environment.
        log: standard output and error are appended to it.
        stage: programs of a higher stage are stopped before those of a lower one.
        grace_seconds: from SIGTERM to SIGKILL.
    """

    name: str
    command: tuple[str, ...]
    log: Path
    environment: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    stage: int = 0
    grace_seconds: float = 10.0


class Process:
    """A running `Program`."""

    def __init__(self, program: Program) -> None:
        """Start it.

        Raises:
            Misconfigured: it cannot be started at all.
        """
        program.log.parent.mkdir(parents=True, exist_ok=True)
        self._log = program.log
        self._log_start = 0
        self._bound_log()
        with program.log.open("ab") as log:
            self._log_start = log.tell()
            try:
                self._process = subprocess.Popen(
                    _wrapped(program.command),
                    env=dict(program.environment),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            except OSError as error:
                raise Misconfigured(f"cannot start {program.name}: {error.strerror}") from None
        self.pid = self._process.pid
        self._group_killed = False

    def poll(self) -> int | None:
        """Exit status (negative: the signal that killed it), or None while it runs.

        Once it has ended, whatever it left behind in its process group is killed. Its log is cut
        where it has grown long.
        """
        self._bound_log()
        status = self._process.poll()
        if status is not None:
            self._kill_group()
        return status

    def terminate(self) -> None:
        """Ask it to end. Only the program itself is asked: it takes care of its own children."""
        self._process.terminate()

    def kill(self) -> None:
        """End it at once, and its process group with it."""
        self._process.kill()
        self._process.wait()
        self._kill_group()

    def last_line(self) -> str:
        """The last line it wrote, without the program's own prefix; empty when there is none."""
        with self._log.open("rb") as log:
            size = log.seek(0, os.SEEK_END)
            log.seek(max(self._log_start, size - _TAIL_BYTES))
            lines = log.read().decode(errors="replace").splitlines()
        written = [line.strip() for line in lines if line.strip()]
        ours = [line for line in written if line.startswith("pronk: ")]
        return (ours or written or [""])[-1].removeprefix("pronk: ")

    def _bound_log(self) -> None:
        """Keep what was written so far as the log before; what comes in between is lost.

        The program goes on appending to the file that it has open, so its name must stay.
        """
        with suppress(OSError):  # a full disk, which others tell
            if self._log.stat().st_size > _LOG_LIMIT:
                shutil.copyfile(self._log, self._log.with_suffix(".log.1"))
                os.truncate(self._log, 0)
                self._log_start = 0

    def _kill_group(self) -> None:
        if self._group_killed:  # its number may belong to another group by now
            return
        self._group_killed = True
        # Whoever sees that it is gone may tidy up: Python removes the named semaphores that a
        # killed process left in shared memory, from a process of the same group.
        deadline = time.monotonic() + _TIDY_SECONDS
        with suppress(ProcessLookupError, PermissionError):
            while time.monotonic() < deadline:
                os.killpg(self.pid, 0)
                time.sleep(0.01)
            os.killpg(self.pid, signal.SIGKILL)


def describe_exit(status: int) -> str:
    """An exit status in words."""
    if status >= 0:
        return f"ended with status {status}"
    try:
        return f"was killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"was killed by signal {-status}"


def _wrapped(command: tuple[str, ...]) -> list[str]:
    if not sys.platform.startswith("linux"):
        return list(command)
    launcher = [sys.executable, "-I", "-S", "-c", _DIE_WITH_PARENT]
    return [*launcher, str(os.getpid()), *command]
