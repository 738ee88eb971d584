"""`python -m pronk.transport.probe [readiness|liveness]`: ask the process beside us how it is.

For container runtimes that run a command instead of speaking gRPC. Status 0: SERVING; 1: not, or no
answer; 2: asked wrongly.
"""

import sys

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from pronk.errors import Misconfigured
from pronk.transport import settings as environment
from pronk.transport.health import LIVENESS, READINESS

_SECONDS = 5.0


def probe(port: int, service: str) -> str:
    """What the process that listens for health checks on `port` of this machine answers."""
    with grpc.insecure_channel(f"localhost:{port}") as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        request = health_pb2.HealthCheckRequest(service=service)
        try:
            status = stub.Check(request, timeout=_SECONDS, wait_for_ready=True).status
        except grpc.RpcError as error:
            return str(error.code().name)
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(status))


def main(arguments: list[str]) -> int:
    """Print the answer; the exit status."""
    service = arguments[0] if arguments else READINESS
    if service not in (READINESS, LIVENESS) or len(arguments) > 1:
        print(f"usage: python -m pronk.transport.probe [{READINESS}|{LIVENESS}]", file=sys.stderr)
        return 2
    try:
        port = environment.load().health_listen.port
    except Misconfigured as error:
        print(f"pronk: {error}", file=sys.stderr)
        return 2
    if port == 0:
        print("pronk: PRONK_HEALTH_LISTEN names no port to ask", file=sys.stderr)
        return 2
    answer = probe(port, service)
    print(answer)
    return 0 if answer == "SERVING" else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
