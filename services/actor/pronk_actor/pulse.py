"""Once a second: the newest counters for the heartbeat, and whether the actor is ready."""

import threading
from collections.abc import Callable

from pronk.telemetry import logs

_SECONDS = 1.0


class Pulse:
    """Calls a function once a second on a thread of its own, so that the work loop need not."""

    def __init__(self, beat: Callable[[], None]) -> None:
        """Call `beat` now and then until `close`."""
        self._beat = beat
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="pulse", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop calling."""
        self._closed.set()
        self._thread.join()

    def _run(self) -> None:
        while True:
            try:
                self._beat()
            except Exception:
                logs.get().exception("pulse_failed")
            if self._closed.wait(_SECONDS):
                return
