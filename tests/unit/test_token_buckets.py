"""How often a connection may call, with a clock of the test's own."""

from pronk.transport.limits import TokenBuckets


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_burst_and_then_the_rate() -> None:
    clock = Clock()
    buckets = TokenBuckets(rate=10, burst=5, clock=clock)
    assert [buckets.take("a") for _ in range(8)] == [True] * 5 + [False] * 3
    for _ in range(50):
        clock.now += 0.1
        assert buckets.take("a")
        assert not buckets.take("a")
    clock.now += 3600
    assert sum(buckets.take("a") for _ in range(100)) == 5, "no more than a bucket is saved up"


def test_nobody_pays_for_another() -> None:
    buckets = TokenBuckets(rate=10, burst=5, clock=Clock())
    assert not all(buckets.take("greedy") for _ in range(1000))
    assert all(buckets.take("modest") for _ in range(5))


def test_who_is_silent_is_forgotten() -> None:
    clock = Clock()
    buckets = TokenBuckets(rate=10, burst=5, clock=clock)
    for number in range(10_000):
        clock.now += 0.001
        assert buckets.take(f"peer {number}")
    assert len(buckets) < 1000
