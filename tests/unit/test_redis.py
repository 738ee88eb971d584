"""The factory of Redis clients."""

import ssl

import pytest
from redis.connection import SSLConnection
from redis.exceptions import AuthenticationError, NoPermissionError
from redis.exceptions import ConnectionError as RedisConnectionError

from pronk.errors import Misconfigured
from pronk.transport.redis import TIMEOUT_SECONDS, WAITED_FOR, connect, raise_if_refused


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
        assert isinstance(refused, WAITED_FOR)
        with pytest.raises(Misconfigured):
            raise_if_refused(refused)
    raise_if_refused(RedisConnectionError("refused"))
