"""The one factory of Redis clients, and what their failures mean."""

import re

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    ClusterError,
    NoPermissionError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.retry import Retry

from pronk.errors import Misconfigured

TIMEOUT_SECONDS = 5.0
"""Deadline of every command; a command that blocks on the server must ask for less."""

_REFUSED = (AuthenticationError, AuthorizationError, NoPermissionError)

# Failures that pass in time: a server that cannot be reached, has no memory left, was made a
# replica of another, or does not know yet the scripts that a learner gives it.
_PASSING = (
    RedisConnectionError,
    RedisTimeoutError,
    OutOfMemoryError,
    NoScriptError,
    ReadOnlyError,
    ClusterError,
    TryAgainError,
)
# The same, where the client library has no class for it: a script that goes on and on, a server
# that may not write, a stream that the learner will make anew. Pipelines put words in front.
_PASSING_TEXT = re.compile(r"\b(BUSY|MISCONF|NOREPLICAS) |exhausted the last possible ID")


def connect(url: str) -> "Redis":
    """A client of the buffer's server; nothing is sent yet, threads may share it.

    Every command has a deadline. Nothing is retried in secret: whoever waits must hear `stop`.
    `rediss://` means TLS with the server's certificate and name verified; its files are options of
    the URL (`?ssl_ca_certs=…&ssl_certfile=…&ssl_keyfile=…`).

    Raises:
        Misconfigured: the URL is malformed.
    """
    try:
        client = Redis.from_url(
            url,
            protocol=2,
            socket_timeout=TIMEOUT_SECONDS,
            socket_connect_timeout=TIMEOUT_SECONDS,
            # Whoever is a replica now is not asked again over the same connection: after a
            # failover the address may lead to another server.
            retry=Retry(NoBackoff(), 0, (RedisConnectionError, RedisTimeoutError, ReadOnlyError)),
            driver_info=None,  # telling it needs a right that Redis 7.0 does not know
        )
        client.connection_pool.make_connection()  # options of the URL are read only now
    except (ValueError, TypeError, RedisError):
        # What went wrong may quote a part of the password.
        raise Misconfigured(
            "PRONK_REDIS_URL is malformed: expected redis[s]://[USER:PASSWORD@]HOST:PORT/DB, "
            "special characters of the password percent-encoded"
        ) from None
    return client


def raise_unless_passing(error: RedisError) -> None:
    """Return where a failure passes in time, so that whoever waits may go on to.

    Raises:
        Misconfigured: the server refused the credentials, or what they may do.
        redis.exceptions.RedisError: the failure itself, which waiting does not mend.
    """
    if isinstance(error, _REFUSED):
        raise Misconfigured(f"Redis refuses us: {error}; check PRONK_REDIS_URL") from None
    if not isinstance(error, _PASSING) and not _PASSING_TEXT.search(str(error)):
        raise error
