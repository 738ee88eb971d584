"""What every call has in common: a limit on its request, and refusals as statuses."""

import contextlib
import functools
import sqlite3
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any, TypeVar

import grpc
from google.protobuf.message import Message

from pronk.telemetry import logs, metrics
from pronk.transport.retry import DISK_FAILS, Reminder
from pronk_param_server.refusal import EXHAUSTED, INTERNAL, INVALID, Refusal

S = TypeVar("S")
Q = TypeVar("Q")
A = TypeVar("A")

Context = grpc.aio.ServicerContext[Any, Any]

SMALL_BYTES = 64 << 10
"""Most requests are smaller."""
LARGE_BYTES = 2 << 20
"""Specs, manifests, pieces of blobs and reports are smaller."""

_disk_reminder = Reminder()
_crash_reminders = defaultdict[str, Reminder](Reminder)


def answered(
    method: Callable[[S, Q, Context], Awaitable[A]],
) -> Callable[[S, Q, Context], Awaitable[A]]:
    """A call with one answer: whatever goes wrong becomes a status, and counts."""

    @functools.wraps(method)
    async def call(self: S, request: Q, context: Context) -> A:
        try:
            return await method(self, request, context)
        except grpc.aio.AbortError:
            raise  # the door has ended the call: one of its messages cannot be read
        except Exception as error:
            failure = error
        await _end(context, method.__name__, failure)
        raise failure  # never reached: ending a call raises

    return call


def streamed(
    method: Callable[[S, Q, Context], AsyncIterator[A]],
) -> Callable[[S, Q, Context], AsyncIterator[A]]:
    """A call with a stream of answers; see `answered`."""

    @functools.wraps(method)
    async def call(self: S, request: Q, context: Context) -> AsyncIterator[A]:
        try:
            async for answer in method(self, request, context):
                yield answer
            return
        except Exception as error:
            failure = error
        await _end(context, method.__name__, failure)

    return call


async def _end(context: Context, method: str, error: Exception) -> None:
    if isinstance(error, Refusal):
        code, message = error.code, str(error)
    elif isinstance(error, OSError | sqlite3.Error):
        code, message = DISK_FAILS, f"the server's disk fails: {error}"
        metrics.DISK_FAILURES.labels("server").inc()
        if _disk_reminder.due():  # whoever waits for the disk asks every two seconds
            logs.get().error("disk_failed", method=method, why=str(error))
    else:
        code, message = INTERNAL, f"the server fails at {method}: its log says why"
        if _crash_reminders[method].due():  # whoever makes it crash may ask as often as it likes
            logs.get().error("call_failed", method=method, exc_info=error)
    metrics.RPC_REFUSED.labels(method, code.name).inc()
    await context.abort(code, message)


class AtOnce:
    """Calls that one connection, and all together, make at once, up to a limit.

    Args:
        limit: how many one makes.
        total: how many all make.
        what: they are, in the plural.
    """

    def __init__(self, limit: int, total: int, what: str) -> None:
        self._limit = limit
        self._total = total
        self._what = what
        self._calls = Counter[str]()

    @contextlib.contextmanager
    def one_more(self, context: Context) -> Iterator[None]:
        """A call, as long as the context lasts.

        Raises:
            Refusal: RESOURCE_EXHAUSTED, the connection has so many already, or all have.
        """
        peer = context.peer()
        if self._calls[peer] >= self._limit:
            raise Refusal(EXHAUSTED, f"one connection has at most {self._limit} {self._what}")
        if self._calls.total() >= self._total:
            raise Refusal(EXHAUSTED, f"there are {self._total} {self._what} already")
        self._calls[peer] += 1
        try:
            yield
        finally:
            self._calls[peer] -= 1
            self._calls += Counter()  # forgets connections without any


def check_size(request: Message, limit: int = SMALL_BYTES) -> None:
    """Refuse a request that is larger than such a request can be."""
    size = request.ByteSize()
    if size > limit:
        raise Refusal(INVALID, f"the request has {size} bytes, at most {limit} are taken")
