"""Whoever dies, hangs or is cut off, and whenever: the run ends well, and nothing counts twice.

`CHAOS_SEED` and `CHAOS_DEEDS` replay a seed, or try another.
"""

import json
import os
from pathlib import Path

import pytest
from links import Links
from monkey import Chaos, Timeline, counted_twice, experiment_of, plan

SEED = int(os.environ.get("CHAOS_SEED", "1"))
DEEDS = int(os.environ.get("CHAOS_DEEDS", "100"))
FRAMES_PER_DEED = 150_000
CHECKPOINT_SECONDS = 5.0
SLACK_SECONDS = 4.0
"""The journal is looked at once a second, and a checkpoint takes a while to be written."""


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_run_outlives_whatever_is_done_to_it(tmp_path: Path) -> None:
    frames = 2 * DEEDS * FRAMES_PER_DEED
    with Links() as links:
        chaos = Chaos(experiment_of(frames), tmp_path, links)
        chaos.run(plan(SEED, DEEDS, chaos.names), frames // 2, seconds=3000)

    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["stop_reason"] == f"frames reached {frames}"
    assert len(chaos.timeline.deeds) == DEEDS
    assert furthest_back(chaos.timeline) <= CHECKPOINT_SECONDS + SLACK_SECONDS
    assert all(learned_anew(chaos.timeline, when) for when, _ in chaos.timeline.deeds)
    assert counted_twice(chaos.record) == 0


def furthest_back(timeline: Timeline) -> float:
    """Seconds of learning that a recovery took back at most."""
    furthest = 0.0
    for (then, before, *_), (_, after, *_) in zip(timeline.seen, timeline.seen[1:], strict=False):
        if after < before:
            there = min(when for when, frames, *_ in timeline.seen if frames >= after)
            furthest = max(furthest, then - there)
    return furthest


def learned_anew(timeline: Timeline, when: float) -> bool:
    """Whether an update after the moment was trained on data of a version after it."""
    before = max((updates for at, _, updates, _ in timeline.seen if at <= when), default=0)
    return any(at > when and updates - lag > before for at, _, updates, lag in timeline.seen)
