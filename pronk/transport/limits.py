"""So that one bad member cannot starve the rest: how often each connection may call.

Members ask a few times a second, a fast learner some fifty. Whoever asks more often is refused for
the moment (RESOURCE_EXHAUSTED), which clients wait out like an outage. A connection is one process:
what gRPC knows of a caller that the caller cannot choose.
"""

import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc

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


class RateInterceptor(grpc.aio.ServerInterceptor):
    """Refuses calls of connections that call too often."""

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
        behaviour = self._streamed if handler.response_streaming else self._answered
        return handler._replace(**{kind: behaviour(method, getattr(handler, kind))})

    def _answered(self, method: str, inner: Callable[..., Any]) -> Callable[..., Any]:
        async def answer(request: Any, context: _Context) -> Any:
            await self._admit(method, context)
            return await inner(request, context)

        return answer

    def _streamed(self, method: str, inner: Callable[..., Any]) -> Callable[..., Any]:
        async def stream(request: Any, context: _Context) -> AsyncIterator[Any]:
            await self._admit(method, context)
            async for answer in inner(request, context):
                yield answer

        return stream

    async def _admit(self, method: str, context: _Context) -> None:
        if self._buckets.take(context.peer()):
            return
        code = grpc.StatusCode.RESOURCE_EXHAUSTED
        metrics.RPC_REFUSED.labels(method, code.name).inc()
        await context.abort(code, f"more than {CALLS_PER_SECOND:g} calls a second: call less often")


def _name(streaming: bool) -> str:
    return "stream" if streaming else "unary"
