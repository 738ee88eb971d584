"""Waits of the work loop that somebody else's code does."""

import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

_BEAT_SECONDS = 1.0


def attend(wait: Callable[[], T], beat: Callable[[], None]) -> T:
    """Run `wait` on a thread and `beat` meanwhile: a neighbour's outage keeps liveness green.

    Raises:
        Exception: what `wait` raised.
    """
    result: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            result.append(wait())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, name="waiting", daemon=True)
    thread.start()
    while thread.is_alive():
        beat()
        thread.join(_BEAT_SECONDS)
    if errors:
        raise errors[0]
    return result[0]
