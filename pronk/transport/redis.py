"""The one factory of Redis clients, and what their failures mean."""

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    NoPermissionError,
    OutOfMemoryError,
    RedisError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.retry import Retry

from pronk.errors import Misconfigured

TIMEOUT_SECONDS = 5.0
"""Deadline of every command; a command that blocks on the server must ask for less."""

WAITED_FOR = (RedisConnectionError, RedisTimeoutError, OutOfMemoryError, NoPermissionError)
"""Failures that pass in time: a server that cannot be reached or has no memory left. Refused
credentials are among them, because they are connection errors to the client library:
`raise_if_refused` tells them apart."""

_REFUSED = (AuthenticationError, AuthorizationError, NoPermissionError)


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
            retry=Retry(NoBackoff(), 0),
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


def raise_if_refused(error: RedisError) -> None:
    """Tell a server that will not have us from one that cannot be reached.

    Raises:
        Misconfigured: it refused the credentials, or what they may do.
    """
    if isinstance(error, _REFUSED):
        raise Misconfigured(f"Redis refuses us: {error}; check PRONK_REDIS_URL") from None
