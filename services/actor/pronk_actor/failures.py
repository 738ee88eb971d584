"""Counts and tells what fails in environments."""

import threading
import time

from pronk.envs import Failure
from pronk.telemetry import logs, metrics

_SECONDS = 1.0
"""Between two lines; what failed in the meantime is counted in the next one."""


class FailureLog:
    """Counts every failure and writes at most a line a second about them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._told_at = -float("inf")
        self._untold = 0

    def __call__(self, failure: Failure) -> None:
        """An environment failed; may be called from any thread."""
        metrics.ENVIRONMENT_FAILURES.labels(failure.reason).inc()
        with self._lock:
            now = time.monotonic()
            if now - self._told_at < _SECONDS:
                self._untold += 1
                return
            self._told_at, untold, self._untold = now, self._untold, 0
        logs.get().warning(
            "environment_failed",
            slot=failure.slot,
            reason=failure.reason,
            error=failure.said,
            untold=untold,
        )
