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
    damage = {name: damage_of(folder, name) for name in names}
    for name, why in damage.items():
        if why is not None:
            tell_damage(name, why)
    return {name for name, why in damage.items() if why is None}


def damage_of(folder: Path, name: str) -> str | None:
    """What is wrong with a blob's file; None where it has its hash."""
    try:
        with blob_path(folder, name).open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        return error.strerror or str(error)
    return None if found == name else "its bytes do not have its hash"


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
