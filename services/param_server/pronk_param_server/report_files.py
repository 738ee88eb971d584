"""The reports on the disk: one file per policy, its hash in the first line."""

from pathlib import Path

from pronk import files
from pronk.wire.digest import digest
from pronk.wire.v1 import reports_pb2


class DamagedError(Exception):
    """A report that cannot be read; the message says why."""


def write(path: Path, report: reports_pb2.Report) -> None:
    """Replace a report.

    Raises:
        OSError: the disk is full or cannot be written; the old one is still there.
    """
    path.parent.mkdir(exist_ok=True)
    content = report.SerializeToString()
    files.replace(path, f"{digest(content)}\n".encode() + content)


def read(path: Path) -> reports_pb2.Report | None:
    """A report; None where there is none.

    Raises:
        DamagedError: it cannot be read, or does not have its hash.
    """
    try:
        name, _, content = path.read_bytes().partition(b"\n")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DamagedError(error.strerror) from None
    if name != digest(content).encode():
        raise DamagedError("its bytes do not have their hash")
    return reports_pb2.Report.FromString(content)
