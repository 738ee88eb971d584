"""A folder that goes when its maker does, however that ends."""

import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pronk.errors import Misconfigured

# The pipe ends when we do: nobody else holds its other end. A kill leaves us no time for anything.
_REMOVE_AT_THE_END = """
import shutil, sys
sys.stdin.read()
shutil.rmtree(sys.argv[1], ignore_errors=True)
"""


@contextmanager
def scratch(prefix: str) -> Iterator[Path]:
    """A new folder among the temporary files that only this user can read.

    It is removed when the context is left and, by a small process that waits for it, when this
    process is killed. Where everything is killed at once, as a container is, it stays.

    Raises:
        Misconfigured: it cannot be made.
    """
    # The name comes first, so that there is no moment in which nobody would remove the folder.
    folder = Path(tempfile.gettempdir()) / f"{prefix}{secrets.token_hex(8)}"
    with _remover(folder):
        try:
            folder.mkdir(mode=0o700)
        except OSError as error:
            raise Misconfigured(f"cannot make {folder}: {error.strerror}") from None
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _remover(folder: Path) -> "subprocess.Popen[bytes]":
    """Leaving it ends the pipe, and waits."""
    return subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _REMOVE_AT_THE_END, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
        start_new_session=True,  # a Ctrl-C is not for it
    )
