"""`pronk` whose liveness has little patience, and that gets stuck where and when a test says.

`PATIENCE` is how many seconds. `STUCK_AT` names a method (`module:Class.method`) of a work loop:
once the file that `STUCK_WHEN` names is there, it waits for a lock that nobody ever gives back.
"""

import functools
import importlib
import os
import sys
import threading
from pathlib import Path
from typing import Any

from pronk.cli.main import main
from pronk.transport.health import Health
from pronk.transport.settings import Address

_start = Health.__init__


def impatient(self: Health, listen: Address, **_: Any) -> None:
    """Begin to answer, with the patience asked for."""
    _start(self, listen, limit=float(os.environ["PATIENCE"]))


def get_stuck(where: str, when: Path) -> None:
    """Have a method deadlock once a file is there."""
    module, _, path = where.partition(":")
    name, _, method = path.partition(".")
    owner = getattr(importlib.import_module(module), name)
    work = getattr(owner, method)
    lock = threading.Lock()
    lock.acquire()

    @functools.wraps(work)
    def work_or_wait(*arguments: Any, **named: Any) -> Any:
        if when.exists():
            lock.acquire()
        return work(*arguments, **named)

    setattr(owner, method, work_or_wait)


if __name__ == "__main__":
    Health.__init__ = impatient  # type: ignore[method-assign]
    if where := os.environ.get("STUCK_AT"):
        get_stuck(where, Path(os.environ["STUCK_WHEN"]))
    main(sys.argv[1:])
