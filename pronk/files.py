"""Files that survive a crash: of the process and of the machine."""

import os
from contextlib import suppress
from errno import EDQUOT, ENOSPC
from pathlib import Path


def is_full(error: BaseException) -> bool:
    """Whether a write was refused because no room is left: it may succeed later."""
    return isinstance(error, OSError) and error.errno in (ENOSPC, EDQUOT)


def replace(path: Path, data: bytes) -> None:
    """Write a file in one step: readers, and whoever comes after a crash, see the old or the new.

    Raises:
        OSError: the disk is full or cannot be written; the old file is still there.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        write(partial, data)
        partial.replace(path)
    except OSError:
        with suppress(OSError):
            partial.unlink()
        raise
    sync(path.parent)


def write(path: Path, data: bytes) -> None:
    """Write a file that nobody reads yet; its bytes are on the disk when this returns.

    Raises:
        OSError: the disk is full or cannot be written; part of the file may be there.
    """
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def sync(folder: Path) -> None:
    """Put a folder's names on the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
