"""For tests of every kind; this folder is on the path, so that they share their helpers."""

import signal
from collections.abc import Iterator

import pytest
import structlog


@pytest.fixture(autouse=True)
def what_a_service_sets_for_its_process() -> Iterator[None]:
    """Log settings and signal handlers as they were: some tests run a service in this process."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()
