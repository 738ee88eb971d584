"""Learners at a tenth, actors at full speed, watchers that never read: nothing grows.

`OVERLOAD_SECONDS` is how long it is looked at.
"""

import os
from collections.abc import Callable
from pathlib import Path
from statistics import median

import pytest
from overload import Overload, Sample, experiment_of, keep

SECONDS = float(os.environ.get("OVERLOAD_SECONDS", "1200"))
WARM_UP_UPDATES = 300
"""By then allocators hold what they need, and whatever remembers the newest few is full."""
WINDOWS = 10
TOLERANCE = 0.05


@pytest.mark.slow
@pytest.mark.timeout(4000)
def test_nothing_grows_under_overload(tmp_path: Path) -> None:
    experiment = experiment_of()
    with Overload(experiment, tmp_path) as cluster:
        cluster.await_updates(WARM_UP_UPDATES)
        samples = cluster.samples(SECONDS)
        assert all(watcher.is_there for watcher in cluster.watchers)
    keep(samples, tmp_path)
    windows = cut(samples)
    told = f"{table(windows)}\n({tmp_path})"
    print(told)

    for name in samples[0].memory:
        first, *later = medians(windows, lambda sample, name=name: sample.memory[name])
        assert all(abs(each / first - 1) <= TOLERANCE for each in later), f"{name}:\n{told}"
    for policy in experiment.policies:
        most = experiment.buffer.max_entries
        assert max(sample.entries[policy] for sample in samples) <= most
        assert max(sample.sizes[policy] for sample in samples) <= most
        assert max(sample.bytes[policy] for sample in samples) <= experiment.buffer.max_bytes
    # The slower learner holds back actors that play for both.
    full = [median(sample.entries[policy] for sample in samples) for policy in experiment.policies]
    assert max(full) == experiment.buffer.max_entries, "no overload"
    # A stream and its sizes for each policy, and what it has seen of each actor.
    assert samples[-1].keys == len(experiment.policies) * (2 + experiment.actor.count)
    for window in windows:
        for policy, before in window[0].updates.items():
            assert window[-1].updates[policy] > before, f"{policy} learns no more"
        for actor, numbers in window[0].acting.items():
            newer = zip(window[-1].acting[actor], numbers, strict=True)
            assert all(last > first for last, first in newer), f"{actor} hears no news"


def cut(samples: list[Sample]) -> list[list[Sample]]:
    """Windows of equal length."""
    length = SECONDS / WINDOWS
    windows: list[list[Sample]] = [[] for _ in range(WINDOWS)]
    for sample in samples:
        windows[min(int(sample.seconds / length), WINDOWS - 1)].append(sample)
    return windows


def medians(windows: list[list[Sample]], what: Callable[[Sample], float]) -> list[float]:
    return [median(what(sample) for sample in window) for window in windows]


def table(windows: list[list[Sample]]) -> str:
    """MiB of every process, window by window, for a person who reads a failure."""
    names = list(windows[0][0].memory)
    rows = {name: medians(windows, lambda sample, name=name: sample.memory[name]) for name in names}
    return "\n".join(
        f"{name:14}" + " ".join(f"{mib:8.1f}" for mib in row) for name, row in rows.items()
    )
