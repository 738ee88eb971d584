"""Waiting for a server that does not answer: backoff with jitter, one log line every 30 s."""

import threading
import time
from collections.abc import Callable
from typing import TypeVar

import grpc
from tenacity import (
    RetryCallState,
    RetryError,
    Retrying,
    retry_if_exception,
    sleep_using_event,
    stop_when_event_set,
    wait_random_exponential,
)

from pronk.telemetry import logs

T = TypeVar("T")

LOG_SECONDS = 30.0
"""Between two log lines about one outage."""

DISK_FAILS = grpc.StatusCode.ABORTED
"""What a server answers that could not write what it was asked to keep; nothing was changed."""

_OUTAGE = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        # The server's limit of concurrent calls, and calls that a leaving server drops.
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.CANCELLED,
    }
)


def code_of(error: BaseException) -> grpc.StatusCode | None:
    """The status of a failed call, None for any other exception."""
    return error.code() if isinstance(error, grpc.Call) else None


def details_of(error: BaseException) -> str:
    """What the server (or the transport) says about a failed call, on one line."""
    details = error.details() if isinstance(error, grpc.Call) else str(error)
    return " ".join((details or "no details").split())


def is_outage(error: BaseException) -> bool:
    """Whether the server cannot be reached, or cannot answer for the moment."""
    return code_of(error) in _OUTAGE


def is_transient(error: BaseException) -> bool:
    """Whether the same call may succeed later: after an outage, or once the disk has room."""
    return is_outage(error) or code_of(error) == DISK_FAILS


class Reminder:
    """Lets one log line through at once, and then one every 30 s."""

    def __init__(self) -> None:
        self._next = 0.0

    def due(self) -> bool:
        """Whether to log now."""
        now = time.monotonic()
        if now < self._next:
            return False
        self._next = now + LOG_SECONDS
        return True


def until_answered(
    call: Callable[[], T],
    stop: threading.Event,
    waiting_for: str,
    *,
    again: Callable[[BaseException], bool] = is_transient,
    beat: Callable[[], None] = lambda: None,
) -> T | None:
    """Call until it succeeds; None when `stop` was set meanwhile.

    Args:
        call: the remote call; it has a deadline of its own.
        stop: interrupts the waits between attempts.
        waiting_for: what the log line says is waited for.
        again: which failures are waited out; all others are raised.
        beat: feeds liveness; called before every wait, so every few seconds.
    """
    reminder = Reminder()

    def remind(state: RetryCallState) -> None:
        beat()
        error = state.outcome.exception() if state.outcome else None
        if error is not None and reminder.due():
            logs.get().warning("waiting", waiting_for=waiting_for, why=details_of(error))

    attempts = Retrying(
        retry=retry_if_exception(again),
        wait=wait_random_exponential(multiplier=0.1, max=2.0),
        sleep=sleep_using_event(stop),
        stop=stop_when_event_set(stop),
        before_sleep=remind,
    )
    try:
        return attempts(call)
    except RetryError:
        return None
