"""The learner's ingest: what is refused is counted, told in few words, and taken out."""

from dataclasses import replace

import pytest
from given_entries import GivenEntries
from param_servers import eventually
from pronk_learner.ingest import Ingest
from structlog.testing import capture_logs
from unroll_samples import HEADER, PLAIN, sample

from pronk.transport import retry
from pronk.transport.buffer import Entry
from pronk.wire import codec
from pronk.wire.validate import Expectation

EXPECTED = Expectation(
    HEADER.run, HEADER.experiment_hash, HEADER.policy, PLAIN, unroll_length=3, core_shapes={}
)


def test_many_refusals_are_few_short_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    long = "x" * 100_000
    foreign = codec.encode(sample(header=replace(HEADER, run=long)))
    named = codec.encode(replace(sample(), extras={}, obs={long: sample().obs["default"]}))
    buffer = GivenEntries([foreign, named, b"junk"] * 100)
    with capture_logs() as lines, Ingest(buffer, EXPECTED, 2) as ingest:  # type: ignore[arg-type]
        eventually(lambda: len(buffer.acknowledged) == 300)
        assert [(line["reason"], line["count"]) for line in lines] == [
            ("run", 1), ("spec", 1), ("magic", 1),
        ]  # fmt: skip
        assert max(len(line["detail"]) for line in lines) <= 500
        assert ingest.refused == 300

        now = retry.time.monotonic() + retry.LOG_SECONDS
        monkeypatch.setattr(retry.time, "monotonic", lambda: now)
        ingest._take(Entry(b"last", b"junk", 1))
    assert [(line["reason"], line["count"]) for line in lines[3:]] == [("magic", 100)]
