"""What every entry point does first, and how it ends.

Measured effects of the tuning are in `docs/decisions/allocator.md`.
"""

import ctypes
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from types import FrameType

from pronk.errors import Broken, Fenced, Misconfigured
from pronk.stopping import Setter

_ONE_WISH_SECONDS = 0.5
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -2, -3, -8


def tune_allocator() -> None:
    """Keep large freed blocks in the process instead of giving them back to the kernel.

    glibc returns large blocks at once and page faults are dear; messages of a megabyte are built
    and dropped all the time here. Without glibc this does nothing.
    """
    if not sys.platform.startswith("linux"):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):  # musl
        return
    mallopt(_M_MMAP_THRESHOLD, 1 << 30)
    mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
    mallopt(_M_TOP_PAD, 64 << 20)
    # Of many arenas each creeps up to a peak of its own, as threads take turns with large blocks.
    mallopt(_M_ARENA_MAX, 2)


def limit_threads(count: int = 1) -> None:
    """Give numeric libraries `count` threads each; the last call before their import counts.

    Actors and learners share the cores; a pool of threads per process makes them several times
    slower on a busy machine.
    """
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(count)


def stop_on_signals() -> threading.Event:
    """An event that SIGTERM and SIGINT set, so that every wait can be interrupted.

    A second wish ends the process at once. Two signals within half a second are one wish: closing
    terminals and some supervisors send them in pairs.
    """
    stop = threading.Event()
    setter = Setter(stop)
    first: float | None = None

    def handle(number: int, _frame: FrameType | None) -> None:
        nonlocal first
        if first is None:
            first = time.monotonic()
            setter.set()
        elif time.monotonic() - first > _ONE_WISH_SECONDS:
            os._exit(128 + number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, handle)
    return stop


def run_service(main: Callable[[threading.Event], None]) -> None:
    """Run `main(stop)` and end the process.

    Status 0 when it returns; 2 with one line when it is misconfigured; 1 with one line when another
    learner took over or an environment is broken; a traceback and 1 for anything that should not
    happen.
    """
    stop = stop_on_signals()
    try:
        main(stop)
    except Misconfigured as error:
        print(f"pronk: {error}", file=sys.stderr)
        sys.exit(2)
    except (Broken, Fenced) as error:
        print(f"pronk: {error}", file=sys.stderr)
        sys.exit(1)
    except Exception:  # here: the command line would take some for a person's mistake
        traceback.print_exc()
        sys.exit(1)
