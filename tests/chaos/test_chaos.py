"""Whoever dies, hangs or is cut off, and whenever: the run ends well, and nothing counts twice.

`CHAOS_SEED` and `CHAOS_DEEDS` replay a seed, or try another.
"""

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cluster import Cluster, experiment_of
from links import Links
from monkey import Chaos, plan

SEED = int(os.environ.get("CHAOS_SEED", "1"))
DEEDS = int(os.environ.get("CHAOS_DEEDS", "100"))
NAMES = ["valkey", "param-server", "learner", "actor-0", "actor-1"]


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_run_outlives_whatever_is_done_to_it(tmp_path: Path) -> None:
    # Unrolls of 64 slots are trained in parts: whoever forgets how far is found out.
    in_parts = ("algorithm.batch_size=48", "buffer.max_entries=4")
    cluster = Cluster(experiment_of("stop.frames=1", *in_parts), tmp_path)
    assert list(cluster.programs) == NAMES
    with Links() as links:
        chaos = Chaos(cluster, links)
        with told(chaos):
            chaos.run(plan(SEED, DEEDS, NAMES), seconds=3000)
            assert cluster.summary()["stop_reason"] == "frames reached 1"
            assert len(chaos.deeds) == DEEDS
            assert killed(cluster) == Counter(
                done.deed[1] for done in chaos.deeds if done.deed[0] == "kill"
            )
            assert not (found := cluster.faults()), "\n".join(found)


def test_a_seed_says_what_is_done_to_whom() -> None:
    assert list(plan(7, 40, NAMES)) == list(plan(7, 40, NAMES))
    assert list(plan(7, 40, NAMES)) != list(plan(8, 40, NAMES))
    deeds = [deed for moment in plan(7, 40, NAMES) for deed in moment.deeds]
    assert len(deeds) == 40
    assert {name for _, name in deeds} == set(NAMES)


def killed(cluster: Cluster) -> Counter[str]:
    """How often which program was seen to die of SIGKILL: no deed went into the void."""
    return Counter(line.split()[0] for line in cluster.told if "was killed by SIGKILL" in line)


@contextmanager
def told(chaos: Chaos) -> Iterator[None]:
    """What goes wrong is told with its story, and how to see it again."""
    try:
        yield
    except Exception as error:
        error.add_note("\n".join(chaos.story()))
        error.add_note(
            f"again: CHAOS_SEED={SEED} CHAOS_DEEDS={DEEDS} pytest tests/chaos/test_chaos.py -m slow"
        )
        raise
