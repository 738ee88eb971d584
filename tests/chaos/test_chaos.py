"""Whoever dies, hangs or is cut off, and whenever: the run ends well, and nothing counts twice.

`CHAOS_SEED` and `CHAOS_DEEDS` replay a seed, or try another.
"""

import os
from pathlib import Path

import pytest
from cluster import CHECKPOINT_SECONDS, SLACK_SECONDS, Cluster, counted_twice, experiment_of
from links import Links
from monkey import Chaos, plan

SEED = int(os.environ.get("CHAOS_SEED", "1"))
DEEDS = int(os.environ.get("CHAOS_DEEDS", "100"))


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_run_outlives_whatever_is_done_to_it(tmp_path: Path) -> None:
    # Unrolls of 64 slots are trained in parts: whoever forgets how far is found out.
    in_parts = ("algorithm.batch_size=48", "buffer.max_entries=4")
    cluster = Cluster(experiment_of("stop.frames=1", *in_parts), tmp_path)
    with Links() as links:
        chaos = Chaos(cluster, links)
        chaos.run(plan(SEED, DEEDS, list(cluster.programs)), seconds=3000)

    assert cluster.summary()["stop_reason"] == "frames reached 1"
    assert len(chaos.deeds) == DEEDS
    assert cluster.timeline.furthest_back() <= CHECKPOINT_SECONDS + SLACK_SECONDS
    assert all(cluster.timeline.learned_anew(when) for when, _ in chaos.deeds)
    assert counted_twice(cluster.record) == 0
