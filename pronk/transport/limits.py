"""What every call must pass before its method sees it: one bad member cannot starve the rest.

Members ask a few times a second, a fast learner some fifty. Whoever asks more often is refused for
the moment (RESOURCE_EXHAUSTED), which clients wait out like an outage. A connection is one process:
what gRPC knows of a caller that the caller cannot choose. A request that is no message is refused
and counted like any other bad one.
"""

import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from pronk.telemetry import metrics

CALLS_PER_SECOND = 500.0
"""Of one connection, in the long run."""
BURST = 1000
"""Calls that one connection may make at once."""

_Context = grpc.aio.ServicerContext[Any, Any]


class TokenBuckets:
    """A bucket of tokens per peer: a call takes one, time brings them back.

    Args:
        rate: tokens that come back in a second.
        burst: tokens of a full bucket.
        clock: seconds.
    """

    def __init__(
        self, rate: float, burst: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._period = 1.0 / rate
        self._capacity = burst / rate
        self._clock = clock
        # When each bucket will be full again; the peers that were silent longest come first.
        self._full_at: OrderedDict[str, float] = OrderedDict()

    def take(self, peer: str) -> bool:
        """Take a token; False when there is none."""
        now = self._clock()
        full_at = max(self._full_at.pop(peer, now), now) + self._period
        allowed = full_at - now <= self._capacity + 1e-9
        self._full_at[peer] = full_at if allowed else full_at - self._period
        # A bucket that is full again need not be remembered.
        while self._full_at and next(iter(self._full_at.values())) <= now:
            self._full_at.popitem(last=False)
        return allowed

    def __len__(self) -> int:
        return len(self._full_at)


class DoorInterceptor(grpc.aio.ServerInterceptor):
    """Refuses calls of connections that call too often, and requests that are no message."""

    def __init__(self) -> None:
        self._buckets = TokenBuckets(CALLS_PER_SECOND, BURST)

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """The method's handler, which looks at the caller first: only there it is known."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return None  # no such method: UNIMPLEMENTED
        method = handler_call_details.method.rpartition("/")[2]
        kind = f"{_name(handler.request_streaming)}_{_name(handler.response_streaming)}"
        guarded = self._streamed if handler.response_streaming else self._answered
        behaviour = guarded(method, getattr(handler, kind), handler.request_streaming)
        read = handler.request_deserializer
        return handler._replace(request_deserializer=_tolerant(read), **{kind: behaviour})

    def _answered(
        self, method: str, inner: Callable[..., Any], streaming: bool
    ) -> Callable[..., Any]:
        async def answer(request: Any, context: _Context) -> Any:
            return await inner(await self._admit(method, request, context, streaming), context)

        return answer

    def _streamed(
        self, method: str, inner: Callable[..., Any], streaming: bool
    ) -> Callable[..., Any]:
        async def stream(request: Any, context: _Context) -> AsyncIterator[Any]:
            admitted = await self._admit(method, request, context, streaming)
            async for answer in inner(admitted, context):
                yield answer

        return stream

    async def _admit(self, method: str, request: Any, context: _Context, streaming: bool) -> Any:
        """The request, or requests, that the method is to see; ends calls that it is not to see."""
        if not self._buckets.take(context.peer()):
            why = f"more than {CALLS_PER_SECOND:g} calls a second: call less often"
            await _refuse(method, context, grpc.StatusCode.RESOURCE_EXHAUSTED, why)
        if streaming:
            return _messages(method, request, context)
        await _check(method, request, context)
        return request


class _Unreadable:
    """What stands for a request whose bytes are no message."""


def _tolerant(read: Callable[[bytes], Any] | None) -> Callable[[bytes], Any] | None:
    """As `read`, without the traceback that gRPC logs for bytes of anybody's making."""
    if read is None:
        return None

    def tolerant(data: bytes) -> Any:
        try:
            return read(data)
        except DecodeError:
            return _Unreadable()

    return tolerant


async def _messages(
    method: str, requests: AsyncIterator[Any], context: _Context
) -> AsyncIterator[Any]:
    async for request in requests:
        await _check(method, request, context)
        yield request


async def _check(method: str, request: Any, context: _Context) -> None:
    if isinstance(request, _Unreadable):
        why = "the request is no message of this method"
        await _refuse(method, context, grpc.StatusCode.INVALID_ARGUMENT, why)


async def _refuse(method: str, context: _Context, code: grpc.StatusCode, why: str) -> None:
    metrics.RPC_REFUSED.labels(method, code.name).inc()
    await context.abort(code, why)


def _name(streaming: bool) -> str:
    return "stream" if streaming else "unary"
