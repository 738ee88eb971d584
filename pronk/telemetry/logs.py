"""JSON logs, one event a line, to standard error."""

import logging
import sys

import structlog

from pronk.telemetry import metrics


class _StandardError:
    """For structlog: a line that a full disk does not take is counted, and nobody dies of it."""

    def write(self, text: str) -> None:
        try:
            sys.stderr.write(text)
        except OSError:
            metrics.DISK_FAILURES.labels("log").inc()

    def flush(self) -> None:
        try:
            sys.stderr.flush()
        except OSError:
            metrics.DISK_FAILURES.labels("log").inc()


def setup(service: str, level: str = "info") -> None:
    """Send structlog's events to standard error as JSON with time, level and service."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.getLevelNamesMapping()[level.upper()]
        ),
        logger_factory=structlog.WriteLoggerFactory(_StandardError()),  # type: ignore[arg-type]
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(service=service)


def get() -> structlog.typing.FilteringBoundLogger:
    """The process's logger."""
    logger: structlog.typing.FilteringBoundLogger = structlog.get_logger()
    return logger
