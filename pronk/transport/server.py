"""The one factory of gRPC servers: limits, keepalive, TLS, and roles for every call."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any

import grpc
from google.protobuf.descriptor import ServiceDescriptor
from grpc_reflection.v1alpha import reflection

from pronk.errors import Misconfigured
from pronk.telemetry import metrics
from pronk.transport.channels import KEEPALIVE_SECONDS, MAX_MESSAGE_BYTES
from pronk.transport.limits import DoorInterceptor
from pronk.transport.listening import check_free
from pronk.transport.security import (
    ALL_ROLES,
    ROLES,
    Authority,
    Roles,
    check_listen,
    required_roles,
    server_credentials,
)
from pronk.transport.settings import Settings

MAX_CALLS = 16_384
"""Calls and streams (every actor holds one) served at once; more are refused for the moment."""

_REFLECTION = f"/{reflection.SERVICE_NAME}/ServerReflectionInfo"
_OPTIONS = (
    # Without this two servers share a port and each gets some of the calls.
    ("grpc.so_reuseport", 0),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_metadata_size", 8 << 10),
    ("grpc.max_concurrent_streams", 256),
    # Connections that nobody uses end, and all others once in a while, when their watches may.
    ("grpc.max_connection_idle_ms", 300_000),
    ("grpc.max_connection_age_ms", 3_600_000),
    ("grpc.max_connection_age_grace_ms", 600_000),
    # Who pings more often than this is sent away.
    ("grpc.http2.min_recv_ping_interval_without_data_ms", KEEPALIVE_SECONDS * 500),
    # Finds clients that vanished without closing their connection.
    ("grpc.keepalive_time_ms", KEEPALIVE_SECONDS * 1000),
    ("grpc.keepalive_timeout_ms", 20_000),
)


def create_server(
    settings: Settings, services: Sequence[ServiceDescriptor], authority: Authority
) -> tuple[grpc.aio.Server, int]:
    """A server bound to `settings.listen`, and its port; add servicers, then start it.

    Call it inside a running event loop.

    Raises:
        Misconfigured: the address is taken, or needs TLS and tokens that are missing.
    """
    check_listen(settings, settings.listen)
    check_free(settings.listen, "PRONK_LISTEN")
    credentials = server_credentials(settings)
    required = {**required_roles(services), _REFLECTION: ALL_ROLES}
    server = grpc.aio.server(
        # The door first: refusals are calls too.
        interceptors=(DoorInterceptor(), RoleInterceptor(required, authority)),
        options=_OPTIONS,
        maximum_concurrent_rpcs=MAX_CALLS,
    )
    reflection.enable_server_reflection(
        (*(service.full_name for service in services), reflection.SERVICE_NAME), server
    )
    address = str(settings.listen)
    try:
        if credentials is None:
            return server, server.add_insecure_port(address)
        return server, server.add_secure_port(address, credentials)
    except RuntimeError:
        raise Misconfigured(
            f"cannot listen on {address} with TLS: PRONK_TLS_CERT and PRONK_TLS_KEY are no "
            "certificate and its key, or PRONK_TLS_CA is no certificate"
        ) from None


class RoleInterceptor(grpc.aio.ServerInterceptor):
    """Refuses every call whose token has none of the method's roles.

    Args:
        required: roles that may call each method, by path; a method that is missing, or has none,
            may be called by nobody.
        authority: knows the roles of a token.
    """

    def __init__(self, required: Mapping[str, Roles], authority: Authority) -> None:
        self._required = required
        self._authority = authority

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """The method's handler, or one that refuses."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return None  # no such method: UNIMPLEMENTED
        method = handler_call_details.method
        roles = self._authority.roles(handler_call_details.invocation_metadata)
        if roles is None:
            return _refuse(method, grpc.StatusCode.UNAUTHENTICATED, "no token, or an unknown one")
        allowed = self._required.get(method, frozenset())
        if not roles & allowed:
            names = " or ".join(name for name, role in ROLES.items() if role in allowed)
            message = f"{method} needs the role {names or 'of nobody'}"
            return _refuse(method, grpc.StatusCode.PERMISSION_DENIED, message)
        return handler


def _refuse(method: str, code: grpc.StatusCode, message: str) -> Any:
    async def refuse(
        _requests: Any, context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[Any]:
        metrics.RPC_REFUSED.labels(method.rpartition("/")[2], code.name).inc()
        await context.abort(code, message)
        yield  # never reached: a stream is what it is

    # Whatever the method's arity: this one does not wait for a request.
    return grpc.stream_stream_rpc_method_handler(refuse)
