"""gRPC health checks on a port and a thread of their own, so that work never starves them.

Liveness says that the work loop turns and that no thread beside it is stuck in what it does; it is
red only when the process should be restarted.
Readiness says that the process can do its work now. Kubernetes' probes speak neither TLS nor
tokens, so neither does this port; it tells nothing else.
"""

# ruff: noqa: N802 - gRPC names the methods.

from concurrent.futures import ThreadPoolExecutor
from typing import Never

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from pronk.telemetry import logs
from pronk.transport.heart import Heart
from pronk.transport.listening import check_free
from pronk.transport.retry import Reminder
from pronk.transport.settings import Address

LIVENESS = "liveness"
READINESS = "readiness"
_WORK_LOOP = "work loop"

_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class Health(health_pb2_grpc.HealthServicer):  # type: ignore[misc]
    """Answers `grpc.health.v1.Health/Check` for "liveness", "readiness" and "" (readiness).

    `Watch` and `List` answer UNIMPLEMENTED on purpose: a watch would hold one of two threads as
    long as its reader likes, and two of them would silence liveness.

    Args:
        listen: where; port 0 asks for a free one, which `port` then names.
        limit: seconds without `beat`, or without a thread's that is at work, after which liveness
            turns red.

    Attributes:
        heart: for the threads beside the work loop.

    Raises:
        Misconfigured: the address cannot be listened on.
    """

    def __init__(self, listen: Address, *, limit: float = 60.0) -> None:
        self.heart = Heart(limit)
        self.beat()
        self._reminder = Reminder()
        self._ready = False
        self._server = grpc.server(
            ThreadPoolExecutor(2, thread_name_prefix="health"),
            options=(("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", 4096)),
            maximum_concurrent_rpcs=16,
        )
        health_pb2_grpc.add_HealthServicer_to_server(self, self._server)
        check_free(listen, "PRONK_HEALTH_LISTEN")
        self.port = self._server.add_insecure_port(str(listen))
        self._server.start()

    def beat(self) -> None:
        """The work loop turns: call it at least every few seconds, blocked waits included."""
        self.heart.beat(_WORK_LOOP)

    def set_ready(self, ready: bool) -> None:
        """Whether the process can do its work now."""
        self._ready = ready

    @property
    def ready(self) -> bool:
        """What readiness answers."""
        return self._ready

    @property
    def alive(self) -> bool:
        """What liveness answers."""
        late = self.heart.late()
        if late and self._reminder.due():
            logs.get().error("stuck", threads=late)
        return not late

    def Check(
        self, request: health_pb2.HealthCheckRequest, context: grpc.ServicerContext
    ) -> health_pb2.HealthCheckResponse:
        """The standard's call; NOT_FOUND for a service that does not exist."""
        if request.service == LIVENESS:
            healthy = self.alive
        elif request.service in (READINESS, ""):
            healthy = self.ready
        else:
            context.abort(grpc.StatusCode.NOT_FOUND, f"no service {request.service!r}")
        return health_pb2.HealthCheckResponse(status=_SERVING if healthy else _NOT_SERVING)

    def Watch(self, request: object, context: grpc.ServicerContext) -> Never:
        """Refused, in so many words; the base class would log a traceback with every call."""
        context.abort(grpc.StatusCode.UNIMPLEMENTED, "ask by Check, again and again")

    List = Watch

    def close(self) -> None:
        """Stop answering."""
        self._server.stop(grace=0).wait()
