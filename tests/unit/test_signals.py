"""Requests to end: counted, and a program that was told to ignore hang-ups does."""

import os
import signal
import threading

import pytest

from pronk.cli.signals import Signals
from pronk.startup import stop_on_signals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_each_asks_to_end(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with Signals() as signals:
        os.kill(os.getpid(), number)
        assert signals.stop.wait(10)
        assert signals.number == number
        os.kill(os.getpid(), number)
        assert not signals.hurried, "twice at once is no second thought"
    assert signal.getsignal(number) is before


def test_nohup_is_respected() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Signals() as signals:
            os.kill(os.getpid(), signal.SIGHUP)
            assert signals.number is None
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.timeout(20)
@pytest.mark.parametrize("who", ["command", "service"])
def test_one_in_the_middle_of_a_wait_deadlocks_nobody(who: str) -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with Signals() as signals:
            stop = signals.stop if who == "command" else stop_on_signals()
            with lock_of_waiting(stop):
                os.kill(os.getpid(), signal.SIGTERM)
            assert stop.wait(10)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def lock_of_waiting(event: threading.Event) -> threading.Condition:
    """What `Event.wait` holds for some moments, and `Event.set` takes."""
    return event._cond


def test_who_listened_leaves_no_thread_behind() -> None:
    before = set(threading.enumerate())
    with Signals():
        (helper,) = set(threading.enumerate()) - before
    helper.join(10)
    assert not helper.is_alive()
