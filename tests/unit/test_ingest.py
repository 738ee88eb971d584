"""The learner's ingest: what is refused is counted, told in few words, and taken out."""

import threading
import time
from dataclasses import replace

import pytest
from given_entries import GivenEntries
from param_servers import eventually
from pronk_learner.ingest import Ingest
from structlog.testing import capture_logs
from unroll_samples import HEADER, PLAIN, sample

from pronk.transport import retry
from pronk.transport.buffer import Entry
from pronk.transport.heart import Heart
from pronk.wire import codec
from pronk.wire.validate import Expectation

EXPECTED = Expectation(
    HEADER.run, HEADER.experiment_hash, HEADER.policy, PLAIN, unroll_length=3, core_shapes={}
)


def ingesting(buffer: GivenEntries, heart: Heart | None = None) -> Ingest:
    return Ingest(buffer, EXPECTED, 2, heart or Heart())  # type: ignore[arg-type]


def test_many_refusals_are_few_short_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    long = "x" * 100_000
    foreign = codec.encode(sample(header=replace(HEADER, run=long)))
    named = codec.encode(replace(sample(), extras={}, obs={long: sample().obs["default"]}))
    buffer = GivenEntries([foreign, named, b"junk"] * 100)
    with capture_logs() as lines, ingesting(buffer) as ingest:
        eventually(lambda: len(buffer.acknowledged) == 300)
        assert [(line["reason"], line["count"]) for line in lines] == [
            ("run", 1), ("spec", 1), ("magic", 1),
        ]  # fmt: skip
        assert max(len(line["detail"]) for line in lines) <= 500
        assert ingest.refused == 300

        now = retry.time.monotonic() + retry.LOG_SECONDS
        monkeypatch.setattr(retry.time, "monotonic", lambda: now)
        ingest._take(Entry(b"last", b"junk", 1), lambda: None)
    assert [(line["reason"], line["count"]) for line in lines[3:]] == [("magic", 100)]


def test_it_is_late_only_when_it_is_stuck(monkeypatch: pytest.MonkeyPatch) -> None:
    heart, lock = Heart(0.5), threading.Event()
    buffer = GivenEntries([codec.encode(sample())] * 3)

    def stuck(*_: int) -> list[Entry]:
        lock.wait(20)
        return []

    with ingesting(buffer, heart) as ingest:
        time.sleep(0.7)
        assert not heart.late(), "nobody takes what it has read"
        monkeypatch.setattr(buffer, "read", stuck)
        for _ in range(3):
            assert ingest.get(5)
        eventually(lambda: heart.late() == ["ingest"])
        lock.set()
    assert not heart.late(), "it has ended"
