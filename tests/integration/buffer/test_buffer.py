"""The buffer on a real server: bounded, nothing lost or twice, whatever is done to it."""

import threading

import pytest
from buffers import (
    MAX_BYTES,
    MAX_ENTRIES,
    NEVER,
    Delays,
    Traffic,
    fill,
    losing_the_first_answer,
    producer,
    stopped,
    wait_until,
)
from prometheus_client import REGISTRY
from redis.exceptions import ConnectionError as RedisConnectionError
from structlog.testing import capture_logs

from pronk.errors import Misconfigured
from pronk.transport.buffer import BufferKeys, BufferState, Consumer, Producer, buffer_state
from pronk.transport.buffer import producer as producer_module


def sent_metric(keys: BufferKeys) -> float:
    return REGISTRY.get_sample_value("pronk_unrolls_sent_total", {"policy": keys.policy}) or 0.0


# The bound.


@pytest.mark.parametrize("max_bytes", [MAX_BYTES, 4500])
def test_producers_together_never_exceed_the_bound(server, client, keys, max_bytes):
    traffic = Traffic(server.url, keys, max_bytes=max_bytes)
    states = []
    traffic.start()
    while any(thread.is_alive() for thread in traffic.producers):
        states.append(buffer_state(client, keys))
    traffic.finish()
    assert max(state.length for state in states) <= MAX_ENTRIES
    assert max(state.bytes for state in states) <= max_bytes
    assert max(state.length for state in states) > 2, "the buffer was never used"
    assert set(traffic.received) == traffic.everything
    assert set(traffic.received.values()) == {1}
    assert buffer_state(client, keys) == BufferState(0, 0)


def test_the_bound_is_looked_at_again_when_adding(client, keys, monkeypatch):
    """However stale the producer's own look was."""
    fill(client, keys, 3)
    monkeypatch.setattr(producer_module, "read_state", lambda *_: BufferState(0, 0))
    assert not producer(client, keys, max_entries=3).send("late", 1, b"y", stopped())
    narrow = Producer(client, keys, 100, max_bytes=301)
    assert narrow.send("late", 1, b"y", stopped())
    assert not narrow.send("late", 2, b"y", stopped())
    assert buffer_state(client, keys) == BufferState(4, 301)


def test_a_full_buffer_is_polled_without_shipping_the_payload(client, keys):
    fill(client, keys, 3)
    received = lambda: client.info("stats")["total_net_input_bytes"]  # noqa: E731
    before = received()
    assert not producer(client, keys, max_entries=3).send("m", 9, b"z" * 100_000, Delays(20))
    assert received() - before < 20_000


def test_a_blocked_producer_looks_often_and_with_jitter(client, keys):
    fill(client, keys, 1)
    delays = Delays(200)
    assert not producer(client, keys, max_entries=1).send("m", 9, b"z", delays)
    assert delays.seconds[0] <= 0.001
    assert 0.02 < max(delays.seconds) <= 0.05
    assert len(set(delays.seconds[50:])) > 100


def test_a_payload_that_never_fits_is_a_misconfiguration(client, keys):
    with pytest.raises(Misconfigured, match=r"raise buffer\.max_bytes"):
        Producer(client, keys, 8, 100).send("m", 1, b"x" * 101, NEVER)


def test_a_blocked_producer_leaves_when_told(client, keys):
    fill(client, keys, 1)
    sender, stop, left = producer(client, keys, max_entries=1), threading.Event(), []
    thread = threading.Thread(
        target=lambda: left.append(sender.send("m", 9, b"z", stop)), daemon=True
    )
    thread.start()
    wait_until(lambda: sender.blocked_seconds > 0.1)
    stop.set()
    thread.join(1)
    assert left == [False]


def test_a_leaving_producer_still_flushes_what_fits(client, keys):
    assert producer(client, keys).send("m", 1, b"z", stopped())
    assert buffer_state(client, keys) == BufferState(1, 1)


# Once, and not twice.


def test_a_duplicate_counts_once(client, keys):
    before, sender = sent_metric(keys), producer(client, keys)
    for sequence in (1, 1, 2, 1, 2):
        assert sender.send("member", sequence, b"x", NEVER)
    assert sender.send("another", 1, b"x", NEVER)
    assert sender.duplicates == 3
    assert sent_metric(keys) - before == 3
    assert buffer_state(client, keys) == BufferState(3, 3)
    assert 0 < client.ttl(keys.seen("member")) <= 24 * 3600


def test_a_lost_answer_is_not_a_second_unroll(client, keys, monkeypatch):
    before, sender = sent_metric(keys), producer(client, keys)
    monkeypatch.setattr(sender, "_add", losing_the_first_answer(sender._add))
    assert sender.send("member", 1, b"x", NEVER)
    assert buffer_state(client, keys).length == 1
    assert sent_metric(keys) - before == 1
    assert sender.duplicates == 0


def test_bytes_are_taken_off_once_by_whoever_deletes(client, keys):
    fill(client, keys, 4, b"x" * 250)
    first = Consumer(client, keys, "first")
    ids = [entry.id for entry in first.read(4, 100)]
    assert buffer_state(client, keys) == BufferState(4, 1000)
    assert first.ack(ids[:1]) == 1
    assert first.ack(ids[:2]) == 1
    assert first.ack([ids[0], ids[0], ids[1]]) == 0
    assert buffer_state(client, keys) == BufferState(2, 500)
    assert first.ack(ids) == 2
    assert buffer_state(client, keys) == BufferState(0, 0)
    assert client.exists(keys.sizes) == 0
    assert client.xpending(keys.stream, "learner")["pending"] == 0


def test_acknowledgements_from_many_threads_count_once(client, keys):
    fill(client, keys, 40)
    reader = Consumer(client, keys, "learner")
    ids = [entry.id for entry in reader.read(40, 100)]
    counts = []
    threads = [
        threading.Thread(target=lambda: counts.extend(reader.ack([id_]) for id_ in ids))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(counts) == 40
    assert buffer_state(client, keys) == BufferState(0, 0)


def test_a_strangers_deletion_does_not_fill_the_buffer_for_good(client, keys):
    fill(client, keys, 2, b"x" * (MAX_BYTES // 2))
    client.delete(keys.stream)
    assert producer(client, keys).send("member", 3, b"x" * MAX_BYTES, stopped())


@pytest.mark.parametrize("nonsense", ["abc", "", "-5", "nan", "1e3", "9" * 400, "1" * 19])
def test_nonsense_beside_the_stream_harms_nobody(client, keys, nonsense):
    """Every actor may write it."""
    fill(client, keys, 1)
    reader, sender = Consumer(client, keys, "learner"), producer(client, keys)
    (entry,) = reader.read(1, 0)
    client.hset(keys.sizes, mapping={"total": nonsense, entry.id: nonsense})
    client.set(keys.seen("member"), nonsense)
    assert buffer_state(client, keys) == BufferState(1, 0)
    assert sender.forgot("member", 1)
    assert sender.send("member", 2, b"x" * 10, stopped())
    assert sender.duplicates == 0
    assert buffer_state(client, keys) == BufferState(2, 10), "counted anew"

    (other,) = reader.read(1, 0)
    client.hset(keys.sizes, "total", nonsense)
    assert reader.ack([entry.id]) == 1
    assert reader.ack([other.id]) == 1
    assert buffer_state(client, keys) == BufferState(0, 0)
    assert client.exists(keys.sizes) == 0


# Reading.


def test_several_entries_come_in_one_command_in_order(client, keys):
    fill(client, keys, 5)
    reader = Consumer(client, keys, "learner")
    first, rest = reader.read(3, 100), reader.read(3, 100)
    assert [len(first), len(rest)] == [3, 2]
    ids = [entry.id for entry in first + rest]
    assert ids == sorted(ids)
    assert {entry.deliveries for entry in first + rest} == {1}
    assert reader.read(3, 0) == []


def test_unrolls_added_before_any_learner_came_are_read(client, keys):
    fill(client, keys, 1)
    assert len(Consumer(client, keys, "learner").read(8, 0)) == 1


def test_a_waiting_reader_gets_what_arrives(client, keys):
    reader = Consumer(client, keys, "learner")
    timer = threading.Timer(0.05, fill, (client, keys, 1))
    timer.start()
    assert len(reader.read(8, 1000)) == 1
    timer.join()


def test_entries_that_never_arrived_are_read_again(client, keys, monkeypatch):
    fill(client, keys, 4)
    reader = Consumer(client, keys, "learner")
    (held,) = reader.read(1, 0)
    with monkeypatch.context() as patch:
        patch.setattr(client, "xreadgroup", losing_the_first_answer(client.xreadgroup))
        assert reader.read(2, 0) == []
    again = reader.read(8, 0)
    assert [entry.deliveries for entry in again] == [2, 2]
    last = reader.read(8, 0)
    assert [entry.deliveries for entry in last] == [1]
    assert len({entry.id for entry in [held, *again, *last]}) == 4


def test_entries_with_fields_of_anybodys_making_carry_nothing_or_what_is_theirs(
    client, keys, monkeypatch
):
    for fields in ({"x": "junk"}, {"x": "junk", "u": "unroll"}):
        client.xadd(keys.stream, fields)
    reader = Consumer(client, keys, "learner")
    with monkeypatch.context() as patch:
        patch.setattr(client, "xreadgroup", losing_the_first_answer(client.xreadgroup))
        assert reader.read(2, 0) == []
    assert [entry.payload for entry in reader.read(8, 0)] == [b"", b"unroll"]
    client.xadd(keys.stream, {"x": "junk"})
    (late,) = reader.read(8, 0)
    assert late.payload == b""
    assert reader.ack([late.id]) == 1


def test_an_acknowledgement_that_did_not_get_through_is_made_up_for(client, keys, monkeypatch):
    fill(client, keys, 3)
    reader = Consumer(client, keys, "learner")
    entries = reader.read(3, 0)

    def refuse(**_):
        raise RedisConnectionError("lost")

    with monkeypatch.context() as patch:
        patch.setattr(reader, "_acknowledge", refuse)
        assert reader.ack([entries[0].id]) == 0
        assert reader.read(3, 0) == []
    assert buffer_state(client, keys).length == 3
    assert reader.read(3, 0) == []
    assert buffer_state(client, keys) == BufferState(2, 200)


# What an actor's hands can do to the stream.


@pytest.mark.parametrize("trim", [[], ["MAXLEN", "0"]], ids=["seen", "unseen"])
def test_a_stream_without_further_ids_is_made_anew_by_the_learner(client, keys, trim):
    """Nobody can add to it any more, and only the learner may delete it."""
    sender, reader = producer(client, keys), Consumer(client, keys, "learner")
    assert reader.read(8, 0) == []
    fill(client, keys, 2)
    client.execute_command("XADD", keys.stream, *trim, f"{2**64 - 1}-{2**64 - 1}", "u", "junk")
    with capture_logs() as logs:
        assert not sender.send("member", 3, b"x", stopped())
    assert "exhausted" in logs[0]["why"]
    reader._next_mend = 0.0  # ten seconds later
    held = [entry for _ in range(3) for entry in reader.read(1, 0)]
    assert len(held) == (0 if trim else 3), "nothing is lost by it"
    assert reader.read(8, 0) == []
    assert sender.send("member", 3, b"x", stopped())
    (entry,) = reader.read(8, 0)
    assert reader.ack([entry.id, *(entry.id for entry in held)]) == 1
    assert buffer_state(client, keys) == BufferState(0, 0)


def test_a_buffer_that_is_said_to_be_full_is_measured_by_the_learner(client, keys):
    """A learner that has half a batch cannot empty it."""
    sender, reader = producer(client, keys), Consumer(client, keys, "learner")
    assert reader.read(8, 0) == []
    fill(client, keys, 2, b"x" * 1000)
    held = [entry.id for entry in reader.read(8, 0)]
    client.hset(keys.sizes, "total", 10**14)
    assert not sender.send("member", 3, b"x", stopped())
    reader._next_mend = 0.0  # ten seconds later
    assert reader.read(8, 0) == []
    assert 2000 <= buffer_state(client, keys).bytes < 10_000
    assert sender.send("member", 3, b"x", stopped())
    assert reader.ack(held) == 2


def test_a_true_account_of_bytes_is_left_alone(client, keys):
    reader = Consumer(client, keys, "learner")
    for sequence, size in enumerate((0, 1, 1000, 100_000), 1):
        assert producer(client, keys).send("member", sequence, b"x" * size, NEVER)
        assert len(reader.read(8, 0)) == 1
        before = buffer_state(client, keys)
        reader._next_mend = 0.0
        assert reader.read(8, 0) == []
        assert buffer_state(client, keys) == before


def test_the_state_is_exported(client, keys):
    fill(client, keys, 3)
    buffer_state(client, keys)
    labels = {"policy": keys.policy}
    assert REGISTRY.get_sample_value("pronk_buffer_length", labels) == 3
    assert REGISTRY.get_sample_value("pronk_buffer_bytes", labels) == 300
