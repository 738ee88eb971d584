"""Servers that die, come back empty, are busy or full, or are not there yet."""

import itertools
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest
from buffers import (
    MAX_ENTRIES,
    NEVER,
    Delays,
    Traffic,
    fill,
    prepare,
    producer,
    stopped,
    wait_until,
)
from redis import Redis
from redis.exceptions import RedisError
from structlog.testing import capture_logs
from valkeys import EmbeddedValkey

from pronk.errors import Misconfigured
from pronk.transport.buffer import (
    BufferState,
    Consumer,
    Producer,
    await_server,
    buffer_state,
    tell_server,
)
from pronk.transport.redis import connect


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
