"""Unrolls on their way to the buffer."""

import threading
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from pronk_actor.sender import QUEUE_UNROLLS, Sender

from pronk.errors import Misconfigured
from pronk.transport.heart import Heart
from pronk.wire.codec import decode, encode
from pronk.wire.unroll import Episode, Unroll, UnrollHeader


class FakeProducer:
    """A buffer that a test opens and closes."""

    def __init__(self) -> None:
        self.entries: list[tuple[str, int, bytes]] = []
        self.open = threading.Event()
        self.open.set()
        self.known: list[tuple[str, int]] = []
        self.stuck = False

    def forgot(self, member: str, sequence: int) -> bool:
        return (member, sequence) not in self.known

    def send(
        self,
        member: str,
        sequence: int,
        payload: bytes,
        stop: threading.Event,
        beat: Callable[[], None],
    ) -> bool:
        while not self.open.wait(0.005):
            if not self.stuck:
                beat()
            if stop.is_set():
                return False
        self.entries.append((member, sequence, payload))
        self.known.append((member, sequence))
        return True


def unroll(slots: int = 2, frame: int = 4, *, noise: bool = False, number: int = 0) -> Unroll:
    rows = (3, slots)
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 64 if noise else 2, (4, slots, frame)).astype(np.uint8)
    return Unroll(
        header=UnrollHeader("hash", "run", "default", "member", 0),
        obs={"default": frames},
        action={"default": np.zeros(rows, np.int64)},
        behaviour_log_prob=np.zeros(rows, np.float32),
        reward=np.full(rows, number, np.float32),
        terminated=np.zeros(rows, np.bool_),
        truncated=np.zeros(rows, np.bool_),
        valid=np.ones(rows, np.bool_),
        task=np.zeros((4, slots), np.int32),
        behaviour_version=np.zeros(rows, np.int64),
        core_state={},
        last_action={"default": np.zeros(slots, np.int64)},
        last_reward=np.zeros(slots, np.float32),
        reset=np.zeros(slots, np.bool_),
        slot=np.arange(slots, dtype=np.int32),
        episodes=tuple(Episode(1.0, 3, 3, 0, slot, 0) for slot in range(slots)),
    )


@pytest.fixture
def producer():
    return FakeProducer()


@pytest.fixture
def sender(producer):
    sender = Sender(producer, "default", Heart(), on_error=lambda: None)
    yield sender
    sender.close(0)


def until(condition, seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.002)


def test_entries_are_numbered_across_unrolls_and_their_parts(sender, producer):
    large = 300_000  # three slots to a mebibyte
    for count in (1, 4, 2):
        assert sender.offer(unroll(count, large // 4), 5)
    assert sender.close(5) == 0
    entries = [decode(payload) for _, _, payload in producer.entries]
    assert [sequence for _, sequence, _ in producer.entries] == [1, 2, 3, 4]
    assert [entry.header.sequence for entry in entries] == [1, 2, 3, 4]
    assert [entry.slot.tolist() for entry in entries] == [[0], [0, 1], [2, 3], [0, 1]]
    assert [[e.slot for e in entry.episodes] for entry in entries] == [[0], [0, 1], [2, 3], [0, 1]]


def test_an_emptied_buffer_is_noticed_once_everything_was_sent(sender, producer):
    assert not sender.lost(), "nothing was sent yet"
    assert sender.offer(unroll(4, 75_000), 1)  # in several parts
    until(lambda: len(producer.entries) == 2 and not sender._busy)
    assert not sender.lost()
    producer.known.clear()
    assert sender.lost()
    producer.open.clear()
    assert sender.offer(unroll(), 1)
    assert not sender.lost(), "another is on its way"


def test_a_full_buffer_fills_the_queue_and_then_blocks(sender, producer):
    producer.open.clear()
    assert sender.offer(unroll(), 1)
    until(lambda: not sender._waiting)  # on its way
    for _ in range(QUEUE_UNROLLS):
        assert sender.offer(unroll(), 0)
    began = time.monotonic()
    assert not sender.offer(unroll(), 0.05)
    assert time.monotonic() - began >= 0.05
    producer.open.set()
    assert sender.offer(unroll(), 5)
    until(lambda: len(producer.entries) == 4)


def test_closing_sends_what_waits(producer):
    sender = Sender(producer, "default", Heart(), on_error=lambda: None)
    producer.open.clear()
    for number in range(3):
        until(lambda n=number: sender.offer(unroll(number=n), 1))
    threading.Timer(0.1, producer.open.set).start()
    sender.drain([unroll(number=3)])
    assert sender.close(5) == 0
    assert sender.drained
    rewards = [decode(payload).reward[0, 0] for _, _, payload in producer.entries]
    assert rewards == [0, 1, 2, 3]


def test_closing_gives_up_in_time(producer):
    sender = Sender(producer, "default", Heart(), on_error=lambda: None)
    producer.open.clear()
    for _ in range(3):
        until(lambda: sender.offer(unroll(), 1))
    began = time.monotonic()
    sender.drain([unroll()])
    assert not sender.drained
    assert sender.close(0.1) == 4
    assert time.monotonic() - began < 2
    assert not producer.entries


def test_observations_travel_compressed_only_where_that_pays(producer):
    for noise, slots in ((False, 64), (True, 64)):
        sender = Sender(producer, "default", Heart(), on_error=lambda: None)
        sent = unroll(slots, 1000, noise=noise)
        sender.offer(replace(sent), 1)
        assert sender.close(5) == 0
        payload = producer.entries.pop()[2]
        assert payload == encode(decode(payload), compress=not noise)
        assert (len(payload) < sent.obs["default"].nbytes / 2) == (not noise)
        np.testing.assert_array_equal(decode(payload).obs["default"], sent.obs["default"])


def test_what_can_never_be_sent_ends_the_actor(producer):
    stopped = threading.Event()
    sender = Sender(producer, "default", Heart(), on_error=stopped.set)
    assert sender.offer(unroll(1, 1 << 20, noise=True), 1)  # four rows of a mebibyte
    assert stopped.wait(5)
    with pytest.raises(Misconfigured, match=r"algorithm\.unroll_length"):
        sender.offer(unroll(), 1)
    sender.close(0)


def test_who_sends_is_late_only_when_it_is_stuck(producer):
    heart = Heart(0.2)
    sender = Sender(producer, "default", heart, on_error=lambda: None)
    assert sender.offer(unroll(), 1)
    until(lambda: producer.entries)
    time.sleep(0.3)
    assert not heart.late(), "it has nothing to do"
    producer.open.clear()
    assert sender.offer(unroll(), 1)
    time.sleep(0.3)
    assert not heart.late(), "the buffer is full"
    producer.stuck = True
    until(lambda: heart.late() == ["send-default"])
    sender.close(0)
    assert not heart.late(), "it has ended"
