"""The factory of Redis clients."""

import ssl

import pytest
from redis._parsers.base import BaseParser
from redis.connection import SSLConnection
from redis.exceptions import AuthenticationError, NoPermissionError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError

from pronk.errors import Misconfigured
from pronk.transport.redis import TIMEOUT_SECONDS, connect, raise_unless_passing


@pytest.mark.parametrize(
    "url",
    [
        "",
        "127.0.0.1:6379",
        "http://127.0.0.1:6379",
        "redis://127.0.0.1:port/0",
        "redis://127.0.0.1:6379/0?unknown=1",
        "redis://:hunter/2@127.0.0.1:6379/0",
    ],
)
def test_a_malformed_url_is_told_without_its_password(url):
    with pytest.raises(Misconfigured, match="PRONK_REDIS_URL is malformed") as caught:
        connect(url)
    assert "hunter" not in str(caught.value)


def test_every_command_has_a_deadline_and_no_hidden_retry():
    connection = connect("redis://127.0.0.1:1/0").connection_pool.make_connection()
    assert connection.socket_timeout == TIMEOUT_SECONDS
    assert connection.socket_connect_timeout == TIMEOUT_SECONDS
    assert connection.retry.get_retries() == 0


def test_tls_is_verified():
    connection = connect("rediss://127.0.0.1:1/0").connection_pool.make_connection()
    assert isinstance(connection, SSLConnection)
    assert connection.cert_reqs == ssl.CERT_REQUIRED
    assert connection.check_hostname


def test_refused_credentials_are_told_from_an_absent_server():
    for refused in (AuthenticationError("WRONGPASS"), NoPermissionError("NOPERM")):
        with pytest.raises(Misconfigured):
            raise_unless_passing(refused)
    raise_unless_passing(RedisConnectionError("refused"))


@pytest.mark.parametrize(
    "answer",
    [
        "BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.",
        "CLUSTERDOWN The cluster is down",
        "ERR The stream has exhausted the last possible ID, unable to add more items",
        "LOADING Redis is loading the dataset in memory",
        "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
        "MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist.",
        "NOREPLICAS Not enough good replicas to write.",
        "NOSCRIPT No matching script. Please use EVAL.",
        "OOM command not allowed when used memory > 'maxmemory'.",
        "READONLY You can't write against a read only replica.",
        "TRYAGAIN Multiple keys request during rehashing of slot",
    ],
)
def test_what_a_server_answers_that_will_serve_us_later_is_waited_out(answer):
    raise_unless_passing(BaseParser.parse_error(answer))


@pytest.mark.parametrize(
    "answer",
    [
        "ERR unknown command 'XADD'",
        "WRONGTYPE Operation against a key holding the wrong kind of value",
        "BUSYGROUP Consumer Group name already exists",
        "NOGROUP No such key",
    ],
)
def test_what_no_wait_mends_is_raised(answer):
    with pytest.raises(ResponseError):
        raise_unless_passing(BaseParser.parse_error(answer))
