"""The buffer on a real server: bounded, nothing lost or twice, whatever goes away meanwhile."""

import itertools
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest
from prometheus_client import REGISTRY
from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from structlog.testing import capture_logs
from valkeys import EmbeddedValkey

from pronk.errors import Misconfigured
from pronk.transport import buffer
from pronk.transport.buffer import (
    BufferKeys,
    BufferState,
    Consumer,
    Producer,
    await_server,
    buffer_state,
    tell_server,
)
from pronk.transport.buffer import producer as producer_module
from pronk.transport.redis import connect

MAX_ENTRIES, MAX_BYTES = 8, 1 << 20
NEVER = threading.Event()
_runs = itertools.count()


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[EmbeddedValkey]:
    with EmbeddedValkey(tmp_path_factory.mktemp("valkey")) as running:
        yield running


@pytest.fixture
def own_server(tmp_path) -> Iterator[EmbeddedValkey]:
    with EmbeddedValkey(tmp_path) as running:
        yield running


@pytest.fixture
def client(server) -> Iterator[Redis]:
    with connect(server.url) as client:
        prepare(client)
        yield client


def prepare(client: Redis) -> None:
    """As if a learner had read from some buffer of the server."""
    assert Consumer(client, BufferKeys("other", "default"), "learner").read(1, 0) == []


@pytest.fixture
def keys() -> BufferKeys:
    """Of a buffer that no other test uses."""
    return BufferKeys(f"run-{next(_runs)}", "default")


def producer(client: Redis, keys: BufferKeys, max_entries: int = MAX_ENTRIES) -> Producer:
    return Producer(client, keys, max_entries, MAX_BYTES)


def fill(client: Redis, keys: BufferKeys, count: int, payload: bytes = b"x" * 100) -> None:
    """Add `count` entries with sequences from 1."""
    sender = producer(client, keys, max_entries=count)
    for sequence in range(1, count + 1):
        assert sender.send("member", sequence, payload, NEVER)


def stopped() -> threading.Event:
    event = threading.Event()
    event.set()
    return event


class Delays(threading.Event):
    """A `stop` that is set after so many waits, none of which takes any time."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.seconds: list[float] = []
        self._count = count

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout is not None
        self.seconds.append(timeout)
        return len(self.seconds) >= self._count


def wait_until(condition: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.005)


def sent_metric(keys: BufferKeys) -> float:
    return REGISTRY.get_sample_value("pronk_unrolls_sent_total", {"policy": keys.policy}) or 0.0


class Traffic:
    """Producers in threads and a consumer in another, until everything has been sent."""

    def __init__(
        self,
        url: str,
        keys: BufferKeys,
        *,
        producers: int = 4,
        each: int = 100,
        size: int = 1000,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        self.url = url
        self.keys = keys
        self.each = each
        self.stop = threading.Event()
        self.received: Counter[tuple[str, int]] = Counter()
        self.failures: list[BaseException] = []
        self._done = threading.Event()
        self._size = size
        self._max_bytes = max_bytes
        self.members = [f"member-{index}" for index in range(producers)]
        self.producers = [
            threading.Thread(target=self._guard, args=(self._produce, member), daemon=True)
            for member in self.members
        ]
        self.consumer = threading.Thread(target=self._guard, args=(self._consume,), daemon=True)

    @property
    def everything(self) -> set[tuple[str, int]]:
        return {(m, s) for m in self.members for s in range(1, self.each + 1)}

    def start(self) -> None:
        for thread in (*self.producers, self.consumer):
            thread.start()

    def finish(self) -> None:
        """Wait until all was sent and the buffer is empty."""
        for thread in self.producers:
            thread.join(60)
            assert not thread.is_alive()
        self._done.set()
        self.consumer.join(60)
        assert not self.consumer.is_alive()
        assert not self.failures

    def _guard(self, work: Callable[..., None], *args: str) -> None:
        try:
            work(*args)
        except BaseException as error:  # the test's thread raises it
            self.failures.append(error)

    def _produce(self, member: str) -> None:
        with connect(self.url) as client:
            sender = Producer(client, self.keys, MAX_ENTRIES, self._max_bytes)
            for sequence in range(1, self.each + 1):
                payload = f"{member} {sequence}".encode().ljust(self._size)
                assert sender.send(member, sequence, payload, self.stop)

    def _consume(self) -> None:
        with connect(self.url) as client:
            reader = Consumer(client, self.keys, "learner")
            while True:
                done = self._done.is_set()
                entries = reader.read(4, 50)
                for entry in entries:
                    member, sequence = entry.payload.decode().split()
                    self.received[member, int(sequence)] += 1
                reader.ack([entry.id for entry in entries])
                if done and not entries:
                    return


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


def losing_the_first_answer(call: Callable) -> Callable:
    """The server does it, and the connection breaks before it can say so."""
    lost = []

    def once(*args, **kwargs):
        answer = call(*args, **kwargs)
        if not lost:
            lost.append(answer)
            raise RedisConnectionError("lost")
        return answer

    return once


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


# Consumers that die.


def test_what_the_dead_left_is_claimed_and_what_the_living_hold_is_not(client, keys):
    fill(client, keys, 6)
    dead, living = Consumer(client, keys, "dead"), Consumer(client, keys, "living")
    left = [entry.id for entry in dead.read(2, 0)]
    held = [entry.id for entry in living.read(2, 0)]
    heir = Consumer(client, keys, "heir")
    assert sorted(heir.names()) == ["dead", "living"]
    heir.claim_from(["dead", "never seen", "heir"])
    claimed = heir.read(8, 0)
    assert [entry.id for entry in claimed] == left
    assert [entry.deliveries for entry in claimed] == [2, 2]
    assert heir.claimed == 2
    fresh = heir.read(8, 0)
    assert [entry.deliveries for entry in fresh] == [1, 1]
    assert not {entry.id for entry in fresh} & {*left, *held}
    assert sorted(heir.names()) == ["heir", "living"]
    assert living.ack(held) == 2


def test_a_claim_of_many_entries_is_whole(client, keys):
    fill(client, keys, 300)
    Consumer(client, keys, "dead").read(300, 0)
    heir = Consumer(client, keys, "heir")
    heir.claim_from(["dead"])
    seen = [entry.id for _ in range(40) for entry in heir.read(8, 0)]
    assert len(seen) == len(set(seen)) == 300
    assert heir.read(8, 0) == []


def test_what_a_dead_learner_takes_on_waking_is_claimed_too(client, keys, monkeypatch):
    heir, dead = Consumer(client, keys, "heir"), Consumer(client, keys, "dead")
    heir.claim_from(["dead"])
    assert heir.read(8, 0) == []
    fill(client, keys, 2)
    assert len(dead.read(8, 0)) == 2
    assert heir.read(8, 0) == []
    monkeypatch.setattr(heir, "_next_claim", 0.0)  # ten seconds later
    assert len(heir.read(8, 0)) == 2


def test_what_a_successor_claimed_is_not_acknowledged_by_who_was_thought_dead(client, keys):
    fill(client, keys, 3)
    woken, heir = Consumer(client, keys, "woken"), Consumer(client, keys, "heir")
    ids = [entry.id for entry in woken.read(3, 0)]
    assert woken.ack(ids[:1]) == 1
    heir.claim_from(["woken"])
    assert [entry.id for entry in heir.read(8, 0)] == ids[1:]
    assert woken.ack(ids) == 0
    assert buffer_state(client, keys) == BufferState(2, 200)
    assert heir.ack(ids) == 2
    assert buffer_state(client, keys) == BufferState(0, 0)


def test_what_a_successor_claimed_is_not_taken_back(client, keys, monkeypatch):
    """Who was thought dead stood still between asking what it holds and reading that again."""
    fill(client, keys, 2)
    Consumer(client, keys, "woken").read(2, 0)
    woken, heir = Consumer(client, keys, "woken"), Consumer(client, keys, "heir")
    fetch = woken._fetch

    def stand_still(times_delivered):
        heir.claim_from(["woken"])
        assert len(heir.read(8, 0)) == 2
        monkeypatch.setattr(woken, "_fetch", fetch)
        return fetch(times_delivered)

    monkeypatch.setattr(woken, "_fetch", stand_still)
    assert woken.read(8, 0) == []
    assert heir.ack([entry["message_id"] for entry in pending(client, keys, "heir")]) == 2


def test_an_emptied_buffer_acknowledges_nothing(client, keys):
    fill(client, keys, 2)
    reader = Consumer(client, keys, "learner")
    ids = [entry.id for entry in reader.read(2, 0)]
    client.delete(keys.stream, keys.sizes)
    assert reader.ack(ids) == 0


def pending(client, keys, name):
    return client.xpending_range(keys.stream, "learner", "-", "+", 100, name)


def test_an_entry_delivered_three_times_is_dropped_and_counted(client, keys):
    fill(client, keys, 2)
    with capture_logs() as logs:
        for name, before in (("a", None), ("b", "a"), ("c", "b"), ("d", "c")):
            reader = Consumer(client, keys, name)
            reader.claim_from([before] if before else [])
            entries = reader.read(8, 0)
            if name == "b":  # one of the two is good
                assert reader.ack([entries[0].id]) == 1
            if name == "c":
                assert [entry.deliveries for entry in entries] == [buffer.MAX_DELIVERIES]
                assert reader.dropped == 0
    assert entries == []
    assert reader.dropped == 1
    assert buffer_state(client, keys) == BufferState(0, 0)
    assert [log["entries"] for log in logs if log["log_level"] == "warning"] == [1]


# Servers that die.


@contextmanager
def half_way(traffic: Traffic) -> Iterator[None]:
    """In the middle of the traffic; the rest of it flows afterwards."""
    traffic.start()
    total = len(traffic.everything)
    wait_until(lambda: sum(traffic.received.values()) > total // 3)
    yield
    assert sum(traffic.received.values()) < total, "it was over already"
    traffic.finish()


def check_recovered(traffic: Traffic, client: Redis) -> None:
    """Lost is at most what the buffer and the consumer held; nothing came twice."""
    lost = traffic.everything - set(traffic.received)
    assert len(lost) <= MAX_ENTRIES
    assert set(traffic.received.values()) == {1}
    assert buffer_state(client, traffic.keys) == BufferState(0, 0)


def test_an_emptied_server_is_filled_again(own_server, keys):
    with connect(own_server.url) as client:
        traffic = Traffic(own_server.url, keys, each=200)
        with half_way(traffic):
            client.flushall()
        check_recovered(traffic, client)


def test_a_server_that_comes_back_empty_is_filled_again(own_server, keys):
    traffic = Traffic(own_server.url, keys, each=200)
    with half_way(traffic):
        os.kill(own_server.pid, signal.SIGKILL)
        own_server.stop()
        time.sleep(0.3)
        own_server.start()
    with connect(own_server.url) as client:
        check_recovered(traffic, client)


def test_a_reader_of_an_emptied_server_makes_the_group_again(client, keys):
    reader = Consumer(client, keys, "learner")
    fill(client, keys, 1)
    assert len(reader.read(8, 0)) == 1
    client.delete(keys.stream, keys.sizes, keys.seen("member"))
    fill(client, keys, 2)
    assert reader.read(8, 0) == []
    assert len(reader.read(8, 0)) == 2


def test_a_producer_notices_that_the_server_was_emptied(own_server, keys):
    with connect(own_server.url) as client:
        prepare(client)
        sender = producer(client, keys)
        assert sender.send("member", 3, b"x", NEVER)
        reader = Consumer(client, keys, "learner")
        reader.ack([entry.id for entry in reader.read(8, 100)])
        assert not sender.forgot("member", 3), "trained on is not lost"
        client.flushall()
        assert sender.forgot("member", 3)
        assert sender.send("member", 2, b"x", NEVER)
        assert sender.forgot("member", 3)
        own_server.stop()
        assert not sender.forgot("member", 3), "it cannot be told"


def test_scripts_that_the_server_forgot_are_given_to_it_by_the_learner(own_server, keys):
    """Actors may not: theirs would be anything."""
    with connect(own_server.url) as client:
        sender, reader = producer(client, keys), Consumer(client, keys, "learner")
        for sequence in (1, 2):
            with capture_logs() as logs:
                assert not sender.send("m", sequence, b"x", stopped())
            if sequence == 1:
                assert [log["why"] for log in logs] == ["no learner has prepared it yet"]
            reader._next_mend = 0.0  # ten seconds later
            assert reader.read(1, 0) == []
            assert sender.send("m", sequence, b"x", NEVER)
            assert reader.ack([entry.id for entry in reader.read(1, 0)]) == 1
            client.script_flush()


def test_an_absent_server_is_waited_for_with_one_line(tmp_path, keys):
    server = EmbeddedValkey(tmp_path)
    server.start()
    server.stop()
    with connect(server.url) as client:
        sender, reader = producer(client, keys), Consumer(client, keys, "learner")
        delays = Delays(40)
        with capture_logs() as logs:
            assert not sender.send("m", 1, b"x", delays)
            assert max(delays.seconds) <= 1.0
        assert [(log["event"], log["waiting_for"]) for log in logs] == [("waiting", "the buffer")]
        with capture_logs() as logs:
            for _ in range(5):
                assert reader.read(8, 1) == []
                assert reader.ack([b"1-1"]) == 0
        assert len(logs) == 1
        assert buffer_state(client, keys) is None
        with server:
            assert reader.read(8, 1) == []
            assert sender.send("m", 1, b"x", NEVER)
            assert len(reader.read(8, 100)) == 1


@pytest.fixture
def replica(own_server, keys) -> Iterator[EmbeddedValkey]:
    """A server that was made a replica of another, as after a failover; it has an unroll."""
    with connect(own_server.url) as admin:
        prepare(admin)
        fill(admin, keys, 1)
        admin.replicaof("127.0.0.1", 1)
        yield own_server


def test_a_server_that_became_a_replica_is_waited_for_over_new_connections(replica, keys):
    with connect(replica.url) as client, connect(replica.url) as admin:
        sender, reader = producer(client, keys), Consumer(client, keys, "learner")
        connection = client.client_id()
        with capture_logs() as logs:
            assert not sender.send("member", 2, b"x", Delays(5))
            assert client.client_id() != connection, "the address may lead elsewhere by now"
            assert reader.read(8, 1) == []
            assert reader.ack([b"1-1"]) == 0
        assert {log["event"] for log in logs} == {"waiting"}
        assert "read only replica" in logs[0]["why"]
        admin.replicaof("NO", "ONE")
        assert sender.send("member", 2, b"x", NEVER)
        assert len(reader.read(8, 100)) == 2


def test_a_script_that_goes_on_and_on_is_waited_for(own_server, keys):
    with connect(own_server.url) as client, connect(own_server.url) as admin:
        sender, reader = producer(client, keys), Consumer(client, keys, "learner")
        assert reader.read(8, 1) == []
        admin.config_set("busy-reply-threshold", 1)
        name = admin.script_load("while true do end")
        loop = threading.Thread(target=run_for_ever, args=(admin, name))
        loop.start()
        with connect(own_server.url) as looker:
            wait_until(lambda: is_busy(looker))
            with capture_logs() as logs:
                assert not sender.send("m", 1, b"x", Delays(3))
                assert buffer_state(client, keys) is None
                assert not tell_server(client)
                assert not sender.forgot("m", 1)
                assert reader.read(8, 1) == []
                assert reader.ack([b"1-1"]) == 0
            assert {log["event"] for log in logs} == {"waiting"}
            looker.script_kill()
        loop.join(10)
        assert sender.send("m", 1, b"x", NEVER)
        assert len(reader.read(8, 100)) == 1


def run_for_ever(client: Redis, script: str) -> None:
    with suppress(RedisError):  # the deadline, here; the server goes on
        client.evalsha(script, 0)


def is_busy(client: Redis) -> bool:
    try:
        return not client.ping()
    except RedisError as error:
        return "BUSY" in str(error)


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


def test_a_producer_without_a_server_leaves_when_told(tmp_path, keys):
    server = EmbeddedValkey(tmp_path)
    server.start()
    server.stop()
    stop, left = threading.Event(), []
    with connect(server.url) as client:
        sender = producer(client, keys)
        thread = threading.Thread(
            target=lambda: left.append(sender.send("m", 1, b"x", stop)), daemon=True
        )
        thread.start()
        wait_until(lambda: sender.blocked_seconds > 0.3)
        stop.set()
        thread.join(1)
    assert left == [False]


def test_a_server_out_of_memory_is_waited_for_and_still_drained(tmp_path, keys):
    # A cap that the buffer's own bound would exceed: `await_server` refuses it at the start.
    with (
        EmbeddedValkey(tmp_path, max_memory=8 << 20) as server,
        connect(server.url) as client,
    ):
        prepare(client)
        sender = Producer(client, keys, 1000, 1 << 30)
        payload, sequence = b"x" * (512 << 10), itertools.count(1)
        with capture_logs() as logs:
            while sender.send("m", number := next(sequence), payload, Delays(3)):
                assert number < 20, "it never ran out of memory"
        assert "memory" in logs[0]["why"]
        reader = Consumer(client, keys, "learner")
        assert reader.ack([entry.id for entry in reader.read(4, 0)]) == 4
        assert sender.send("m", number, payload, NEVER)
        assert buffer_state(client, keys).bytes == buffer_state(client, keys).length * len(payload)


# Before the start.


def test_the_buffers_fit_into_the_servers_memory(tmp_path):
    with EmbeddedValkey(tmp_path, max_memory=100 << 20) as server, connect(server.url) as client:
        assert await_server(client, 70 << 20, NEVER)
        with pytest.raises(Misconfigured, match=r"buffer\.max_bytes.*70%.*maxmemory"):
            await_server(client, (70 << 20) + 1, NEVER)
        client.config_set("maxmemory-policy", "allkeys-lru")
        with pytest.raises(Misconfigured, match="noeviction"):
            await_server(client, 1, NEVER)
        client.config_set("maxmemory", 0)
        assert await_server(client, 1 << 40, NEVER)


def test_a_late_server_is_awaited(tmp_path):
    server = EmbeddedValkey(tmp_path)
    server.start()
    server.stop()
    answers, beats = [], []
    with connect(server.url) as client:
        assert await_server(client, 1, stopped()) is False
        thread = threading.Thread(
            target=lambda: answers.append(await_server(client, 1, NEVER, lambda: beats.append(1))),
            daemon=True,
        )
        thread.start()
        wait_until(lambda: len(beats) > 1)
        with server:
            thread.join(10)
    assert answers == [True]


def test_refused_credentials_end_at_once(own_server, keys):
    with connect(own_server.url) as admin:
        admin.config_set("requirepass", "right")
        url = own_server.url.replace("//", "//:wrong@")
        with connect(url) as client:
            for attempt in (
                lambda: await_server(client, 1, NEVER),
                lambda: producer(client, keys).send("m", 1, b"x", NEVER),
                lambda: Consumer(client, keys, "learner").read(1, 0),
                lambda: Consumer(client, keys, "learner").ack([b"1-1"]),
                lambda: buffer_state(client, keys),
            ):
                with pytest.raises(Misconfigured, match="PRONK_REDIS_URL") as caught:
                    attempt()
                assert "wrong" not in str(caught.value)
        with connect(own_server.url.replace("//", "//:right@")) as client:
            assert await_server(client, 1, NEVER)


def test_the_state_is_exported(client, keys):
    fill(client, keys, 3)
    buffer_state(client, keys)
    labels = {"policy": keys.policy}
    assert REGISTRY.get_sample_value("pronk_buffer_length", labels) == 3
    assert REGISTRY.get_sample_value("pronk_buffer_bytes", labels) == 300
