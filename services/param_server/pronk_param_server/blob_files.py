"""The blobs of releases as files, `ab/abcd…`, on the writer thread."""

import hashlib
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from pronk import files
from pronk.telemetry import logs, metrics


def blob_path(folder: Path, name: str) -> Path:
    """Where a blob lies in `folder`."""
    return folder / name[:2] / name


def persist(folder: Path, contents: Mapping[str, bytes]) -> None:
    """Write blobs so that each file is whole or not there."""
    for name, content in contents.items():
        path = blob_path(folder, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        files.replace(path, content)
        files.sync(folder)


def sound(folder: Path, names: Iterable[str]) -> set[str]:
    """Those of the blobs whose file is there and has its hash.

    The others are told and counted.
    """
    return {name for name in names if _is_sound(folder, name)}


def _is_sound(folder: Path, name: str) -> bool:
    try:
        with blob_path(folder, name).open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        tell_damage(name, error.strerror or str(error))
        return False
    if found != name:
        tell_damage(name, "its bytes do not have its hash")
    return found == name


def tell_damage(name: str, why: str) -> None:
    """A blob on disk cannot be used: one line, and a count."""
    metrics.BLOBS_DAMAGED.inc()
    logs.get().error("blob_damaged", blob=name, why=why)


def prune(folder: Path, kept: Collection[str]) -> None:
    """Remove what no release names: left by a release that was not recorded, or half-written.

    Before anything else uses the folder. A disk that cannot be written keeps
    them until the next start.
    """
    for path in folder.glob("*/*"):
        if path.name not in kept:
            with suppress(OSError):
                path.unlink()
