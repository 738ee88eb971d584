"""Events that signal handlers may set."""

import threading
from queue import SimpleQueue


class Setter:
    """Sets an event for signal handlers, a moment after they ask.

    They may not do so themselves: a handler interrupts its thread anywhere, also in the middle of
    `Event.wait`, which holds the very lock that `Event.set` takes; neither would ever return.
    Putting into a `SimpleQueue` is safe there.
    """

    def __init__(self, event: threading.Event) -> None:
        self._event = event
        self._wishes = SimpleQueue[bool]()
        threading.Thread(target=self._run, name="stop", daemon=True).start()

    def set(self) -> None:
        """Have the event set."""
        self._wishes.put(True)

    def close(self) -> None:
        """Nobody asks any more."""
        self._wishes.put(False)

    def _run(self) -> None:
        if self._wishes.get():
            self._event.set()
