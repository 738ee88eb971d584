"""Each role's Redis user against a real server: what it may do, and what is refused."""

import secrets
import subprocess
import threading
from collections.abc import Iterator

import pytest
from param_servers import eventually, free_port
from redis import Redis
from redis.exceptions import AuthenticationError, NoPermissionError, RedisError, ResponseError

from pronk.errors import Misconfigured
from pronk.transport.acl import RULES, aclfile
from pronk.transport.buffer import (
    BufferKeys,
    BufferState,
    Consumer,
    Producer,
    await_server,
    buffer_state,
)
from pronk.transport.buffer.consumer import MAX_DELIVERIES
from pronk.transport.redis import connect
from pronk.transport.valkey import valkey_command

KEYS = BufferKeys("run", "default")
STREAM, SIZES, SEEN = KEYS.stream, KEYS.sizes, KEYS.seen("train-1")
NEVER = threading.Event()

ACTOR, LEARNER, MONITOR = "actor", "learner", "monitor"
NOBODY: set[str] = set()
EVERYBODY = {ACTOR, LEARNER, MONITOR}
BUFFER = {ACTOR, LEARNER}

# Command → who may. Written out: a change of the rules is a change of two files.
TABLE: list[tuple[str, set[str]]] = [
    ("PING", EVERYBODY),
    ("INFO memory", EVERYBODY),
    # the stream
    (f"XLEN {STREAM}", BUFFER),
    (f"XADD {STREAM} * u x", {ACTOR}),
    (f"XREADGROUP GROUP learner me COUNT 1 STREAMS {STREAM} >", {LEARNER}),
    (f"XGROUP CREATE {STREAM} another 0 MKSTREAM", {LEARNER}),
    (f"XGROUP DELCONSUMER {STREAM} learner nobody", {LEARNER}),
    (f"XGROUP DESTROY {STREAM} another", NOBODY),
    (f"XGROUP SETID {STREAM} learner 0", NOBODY),
    (f"XINFO CONSUMERS {STREAM} learner", {LEARNER}),
    (f"XINFO STREAM {STREAM}", {LEARNER}),
    (f"MEMORY USAGE {STREAM}", {LEARNER}),
    (f"MEMORY USAGE {SIZES}", NOBODY),
    (f"XPENDING {STREAM} learner", {LEARNER}),
    (f"XCLAIM {STREAM} learner me 0 1-1", {LEARNER}),
    (f"XAUTOCLAIM {STREAM} learner me 0 0", NOBODY),
    (f"XACK {STREAM} learner 1-1", {LEARNER}),
    (f"XDEL {STREAM} 1-1", {LEARNER}),
    (f"XRANGE {STREAM} - +", NOBODY),
    (f"XREAD STREAMS {STREAM} 0", NOBODY),
    (f"XTRIM {STREAM} MAXLEN 0", NOBODY),
    (f"DEL {STREAM}", {LEARNER}),
    (f"UNLINK {STREAM}", NOBODY),
    (f"SET {STREAM} x", NOBODY),
    (f"EXPIRE {STREAM} 1", NOBODY),
    (f"RENAME {STREAM} {STREAM}2", NOBODY),
    # what lies beside it
    (f"HGET {SIZES} total", BUFFER),
    (f"HINCRBY {SIZES} total 1", {LEARNER}),
    (f"HSET {SIZES} 1-1 5", {ACTOR}),
    (f"HDEL {SIZES} 1-1", {LEARNER}),
    (f"DEL {SIZES}", {LEARNER}),
    (f"SET {SEEN} 1 EX 9", {ACTOR}),
    (f"GET {SEEN}", {ACTOR}),
    (f"DEL {SEEN}", NOBODY),
    # a policy that is called as the keys are
    ("SET pronk:run:seen:unrolls x", NOBODY),
    ("HDEL pronk:run:sizes:unrolls x", NOBODY),
    # keys of others
    ("SET other 1", NOBODY),
    ("GET other", NOBODY),
    ("XADD other * u x", NOBODY),
    ("XLEN other:pronk:run:default:unrolls", NOBODY),
    # scripts: with the caller's rights, and only on the buffer's keys
    ("SCRIPT|LOAD|return 1", {LEARNER}),
    ("SCRIPT FLUSH", NOBODY),
    ("SCRIPT KILL", NOBODY),
    (f"EVAL|return redis.call('XLEN', KEYS[1])|1|{STREAM}", NOBODY),
    ("FUNCTION LIST", NOBODY),
    # the server
    ("KEYS *", NOBODY),
    ("SCAN 0", NOBODY),
    ("FLUSHALL", NOBODY),
    ("FLUSHDB", NOBODY),
    ("SELECT 1", NOBODY),
    ("CONFIG GET maxmemory", NOBODY),
    ("CONFIG SET maxmemory 0", NOBODY),
    ("ACL LIST", NOBODY),
    ("ACL SETUSER actor +@all", NOBODY),
    ("CLIENT LIST", NOBODY),
    ("CLIENT KILL TYPE normal", NOBODY),
    ("CLIENT PAUSE 1", NOBODY),
    ("MONITOR", NOBODY),
    ("SHUTDOWN NOSAVE", NOBODY),
    ("SAVE", NOBODY),
    ("REPLICAOF NO ONE", NOBODY),
    ("PUBLISH channel x", NOBODY),
    ("SUBSCRIBE channel", NOBODY),
    ("LATENCY LATEST", NOBODY),
    ("MODULE LIST", NOBODY),
]


class Guarded:
    """A server with a user per role, and one for the test that may do everything."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.passwords = {role: secrets.token_urlsafe() for role in [*RULES, "admin"]}

    def aclfile(self) -> str:
        passwords = dict(self.passwords)
        admin = passwords.pop("admin")
        return aclfile(passwords) + f"user admin on >{admin} ~* &* +@all\n"

    def connect(self, role: str) -> Redis:
        return connect(f"redis://{role}:{self.passwords[role]}@127.0.0.1:{self.port}/0")

    def answers(self) -> bool:
        try:
            with self.connect("monitor") as client:
                return bool(client.ping())
        except RedisError:
            return False


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    folder = tmp_path_factory.mktemp("valkey")
    guarded = Guarded(free_port())
    file = folder / "users.acl"
    file.write_text(guarded.aclfile())
    command = valkey_command(guarded.port, folder, 32 << 20, file)
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        try:
            eventually(guarded.answers)
            yield guarded
        finally:
            process.kill()


@pytest.fixture
def admin(server: Guarded) -> Iterator[Redis]:
    with server.connect("admin") as client:
        client.flushall()
        client.xgroup_create(STREAM, "learner", id="0", mkstream=True)
        client.acl_log_reset()
        yield client


def is_allowed(client: Redis, command: str) -> bool:
    words = command.split("|") if "|" in command else command.split()
    try:
        client.execute_command(*words)
    except NoPermissionError:
        return False
    except ResponseError:
        pass  # it was let in, and had no sense
    return True


@pytest.mark.parametrize("role", RULES)
@pytest.mark.parametrize(("command", "allowed"), TABLE, ids=[command for command, _ in TABLE])
def test_every_role_by_every_command(
    server: Guarded, admin: Redis, command: str, allowed: set[str], role: str
) -> None:
    with server.connect(role) as client:
        assert is_allowed(client, command) == (role in allowed)


def test_a_script_has_no_more_rights_than_its_caller(server: Guarded, admin: Redis) -> None:
    admin.xadd(STREAM, {"u": "an unroll"})
    for script, keys in (
        ("return redis.call('XRANGE', KEYS[1], '-', '+')", [STREAM]),
        ("return redis.call('UNLINK', KEYS[1])", [STREAM]),
        ("return redis.call('GET', KEYS[1])", ["other"]),
        ("return redis.call('KEYS', '*')", []),
    ):
        name = admin.script_load(script)
        for role in ("actor", "learner"):
            refused = pytest.raises(ResponseError, match=r"[Nn]o permissions")
            with server.connect(role) as client, refused:
                client.evalsha(name, len(keys), *keys)
    assert admin.xlen(STREAM) == 1


def test_nobody_enters_without_a_password(server: Guarded) -> None:
    for url in (
        f"redis://127.0.0.1:{server.port}/0",
        f"redis://actor:wrong@127.0.0.1:{server.port}/0",
        f"redis://:{server.passwords['actor']}@127.0.0.1:{server.port}/0",
        f"redis://nobody:{server.passwords['actor']}@127.0.0.1:{server.port}/0",
    ):
        with connect(url) as client:
            with pytest.raises(AuthenticationError):
                client.ping()
            with pytest.raises(Misconfigured, match="PRONK_REDIS_URL") as caught:
                await_server(client, 1, NEVER)
        assert server.passwords["actor"] not in str(caught.value)


def test_producer_and_consumer_need_no_more_than_their_roles_have(
    server: Guarded, admin: Redis
) -> None:
    stopped = threading.Event()
    stopped.set()
    admin.flushall()
    admin.script_flush()  # actors wait until a learner has given the server theirs
    with server.connect("actor") as actor, server.connect("learner") as learner:
        for client in (actor, learner):
            assert await_server(client, 1 << 20, NEVER)
            assert buffer_state(client, KEYS) is not None
        dead = Consumer(learner, KEYS, "epoch-1-rank-0")
        assert dead.read(1, 1) == []  # makes the group
        producer = Producer(actor, KEYS, 8, 1 << 20)
        for sequence in range(1, 5):
            assert producer.send("train-1", sequence, b"unroll", NEVER)
        assert producer.send("train-1", 4, b"unroll", NEVER)
        assert producer.duplicates == 1
        assert len(dead.read(2, 1)) == 2
        assert buffer_state(actor, KEYS) == BufferState(4, 24)

        consumer = Consumer(learner, KEYS, "epoch-2-rank-0")
        assert consumer.names() == ["epoch-1-rank-0"]
        consumer.claim_from(["epoch-1-rank-0"])
        entries = [*consumer.read(4, 1), *consumer.read(4, 1)]
        assert len(entries) == 4
        assert consumer.claimed == 2
        assert consumer.ack([entry.id for entry in entries]) == 4
        producer.send("train-1", 9, b"poison", NEVER)
        for _ in range(MAX_DELIVERIES):
            assert Consumer(learner, KEYS, "epoch-2-rank-0").read(1, 1)
        last = Consumer(learner, KEYS, "epoch-2-rank-0")
        assert last.read(1, 1) == []
        assert last.dropped == 1
        actor.xadd(STREAM, {"u": "x"}, id=f"{2**64 - 1}-{2**64 - 1}")
        assert len(last.read(1, 1)) == 1
        last._next_mend = 0.0
        assert last.read(1, 1) == []
        assert producer.send("train-1", 10, b"unroll", stopped), "the stream was made anew"
    assert admin.acl_log() == [], "something was refused on the way"


def test_the_file_holds_no_password_and_no_other_role(server: Guarded) -> None:
    text = aclfile({"actor": server.passwords["actor"]})
    assert server.passwords["actor"] not in text
    assert "user learner" not in text
    for wrong in ({"root": "x"}, {"actor": ""}):
        with pytest.raises(Misconfigured, match="actor, learner, monitor"):
            aclfile(wrong)
