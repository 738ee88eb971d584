"""Lines of a process that nobody can take."""

from contextlib import suppress
from pathlib import Path

import pytest
from prometheus_client import REGISTRY

from pronk.telemetry import logs


def untaken() -> float:
    return REGISTRY.get_sample_value("pronk_disk_failures_total", {"what": "log"}) or 0.0


def test_a_line_that_a_full_disk_does_not_take_is_counted_and_kills_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = untaken()
    full = Path("/dev/full").open("w", encoding="utf-8")  # noqa: SIM115 - closing it fails
    monkeypatch.setattr("sys.stderr", full)
    logs.setup("test")
    logs.get().error("not_written")
    assert untaken() == before + 1
    with suppress(OSError):
        full.close()
