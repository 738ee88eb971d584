"""Every method of the contract, from the generated code, and how to call one with any bytes."""

import importlib
import pkgutil

import grpc
from google.protobuf.descriptor import MethodDescriptor

from pronk.wire import v1

MODULES = [
    importlib.import_module(m.name) for m in pkgutil.iter_modules(v1.__path__, "pronk.wire.v1.")
]
SERVICES = [
    service
    for module in MODULES
    if module.__name__.endswith("_pb2")
    for service in module.DESCRIPTOR.services_by_name.values()
]
"""Every service that the generated code knows."""
METHODS: list[MethodDescriptor] = [method for service in SERVICES for method in service.methods]


def call(
    channel: grpc.Channel, method: MethodDescriptor, request: bytes, timeout: float = 5
) -> tuple[grpc.StatusCode, str]:
    """How a call with one message ends."""
    path = f"/{method.containing_service.full_name}/{method.name}"
    try:
        match (method.client_streaming, method.server_streaming):
            case (False, False):
                channel.unary_unary(path)(request, timeout=timeout)
            case (True, False):
                channel.stream_unary(path)(iter([request]), timeout=timeout)
            case (False, True):
                list(channel.unary_stream(path)(request, timeout=timeout))
            case _:
                raise AssertionError("no such method yet")
    except grpc.RpcError as error:
        return error.code(), error.details()
    return grpc.StatusCode.OK, ""
