"""The one factory of gRPC channels: limits, keepalive, TLS and tokens."""

from collections.abc import Callable
from typing import Any, NamedTuple

import grpc

from pronk.errors import Misconfigured
from pronk.transport.retry import details_of
from pronk.transport.security import client_credentials
from pronk.transport.settings import Settings

MAX_MESSAGE_BYTES = 4 << 20
"""Largest message either side takes."""
CHUNK_BYTES = 1 << 20
"""Size of the pieces that blobs travel in."""
INLINE_BYTES = 256 << 10
"""Blobs of a version that are no larger together ride along with its manifest."""
CALL_SECONDS = 5.0
"""Deadline of a call with a small answer."""
BLOB_SECONDS = 120.0
"""Deadline of storing or fetching a blob."""

KEEPALIVE_SECONDS = 60
_OPTIONS = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    # Faster pings than the server permits end in GOAWAY.
    ("grpc.keepalive_time_ms", KEEPALIVE_SECONDS * 1000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.keepalive_permit_without_calls", 1),
    # The default waits up to two minutes before it tries a returned server again.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 2_000),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    # Members of a cluster reach each other directly.
    ("grpc.enable_http_proxy", 0),
)


def connect(settings: Settings) -> grpc.Channel:
    """A channel to the parameter server at `settings.server`; connects on first use.

    Make one per process, after any fork, and close it in the end.

    Raises:
        Misconfigured: credentials that cannot be read, or a token that would travel readable.
    """
    credentials = client_credentials(settings)
    token = settings.client_token()
    target = str(settings.server)
    if settings.server.port == 0:
        raise Misconfigured("PRONK_SERVER: port 0 cannot be connected to")
    if credentials is not None:
        channel = grpc.secure_channel(target, credentials, options=_OPTIONS)
    else:
        if token is not None and not (settings.server.is_loopback or settings.insecure):
            raise Misconfigured(
                f"the token would travel readable to {target}: set PRONK_TLS_CA, "
                "or PRONK_INSECURE=1 if the network is trusted"
            )
        channel = grpc.insecure_channel(target, options=_OPTIONS)
    return channel if token is None else grpc.intercept_channel(channel, _ShowToken(token))


def refused(error: grpc.RpcError) -> Misconfigured:
    """What a service ends with when the parameter server will not have it."""
    return Misconfigured(f"the parameter server refuses: {details_of(error)}")


class _CallDetails(NamedTuple):
    """What `grpc.ClientCallDetails` names, with metadata replaced."""

    method: str
    timeout: float | None
    metadata: tuple[tuple[str, str | bytes], ...]
    credentials: grpc.CallCredentials | None
    wait_for_ready: bool | None
    compression: Any


class _ShowToken(
    grpc.UnaryUnaryClientInterceptor,
    grpc.UnaryStreamClientInterceptor,
    grpc.StreamUnaryClientInterceptor,
):
    """Adds the bearer token to every call.

    An interceptor, because gRPC's own call credentials refuse plaintext channels, and loopback
    needs no TLS.
    """

    def __init__(self, token: str) -> None:
        self._header = ("authorization", f"Bearer {token}")

    def intercept_unary_unary(
        self, continuation: Callable[..., Any], client_call_details: Any, request: Any
    ) -> Any:
        return continuation(self._with_token(client_call_details), request)

    def intercept_unary_stream(
        self, continuation: Callable[..., Any], client_call_details: Any, request: Any
    ) -> Any:
        return continuation(self._with_token(client_call_details), request)

    def intercept_stream_unary(
        self, continuation: Callable[..., Any], client_call_details: Any, request_iterator: Any
    ) -> Any:
        return continuation(self._with_token(client_call_details), request_iterator)

    def _with_token(self, details: Any) -> _CallDetails:
        return _CallDetails(
            details.method,
            details.timeout,
            (*(details.metadata or ()), self._header),
            details.credentials,
            details.wait_for_ready,
            details.compression,
        )
