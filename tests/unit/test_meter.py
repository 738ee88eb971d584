"""An actor's time: busy or blocked, and told to Prometheus while it passes."""

import threading
import time

from param_servers import eventually
from pronk_actor.meter import Meter

from pronk.telemetry import metrics


def told() -> tuple[float, float]:
    return metrics.ACTOR_BUSY_SECONDS._value.get(), metrics.ACTOR_BLOCKED_SECONDS._value.get()


def test_a_wait_that_is_under_way_shows_in_the_metrics() -> None:
    """An actor that waits for minutes must not look as if it did nothing at all."""
    meter = Meter(slots=1, frames_per_step=1)
    _, before = told()
    with meter.blocked():
        time.sleep(0.05)
        stats = meter.stats()  # as a heartbeat asks, from another thread
        _, during = told()
        assert during - before >= 0.05
        assert during - before >= stats.blocked_seconds - 0.05


def test_the_metrics_are_told_every_second_once() -> None:
    meter, over = Meter(slots=1, frames_per_step=1), threading.Event()
    busy, blocked = told()
    asking = threading.Thread(target=lambda: [meter.stats() for _ in iter(over.is_set, True)])
    asking.start()
    for _ in range(20):
        with meter.blocked():
            time.sleep(0.002)
        time.sleep(0.001)
    over.set()
    asking.join()
    meter.tell()
    stats = meter.stats()

    def agree() -> bool:
        now_busy, now_blocked = told()
        return (
            abs(now_busy - busy - stats.busy_seconds) < 0.01
            and abs(now_blocked - blocked - stats.blocked_seconds) < 0.01
        )

    eventually(agree, 1)
