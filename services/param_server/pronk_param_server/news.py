"""News of versions: whoever watches a policy gets the newest one, and every newer one after it."""

import asyncio
from collections.abc import AsyncIterator

from pronk.transport.channels import INLINE_BYTES
from pronk.wire.v1 import registry_pb2 as pb
from pronk_param_server.blobs import Blobs
from pronk_param_server.calls import AtOnce, Context
from pronk_param_server.refusal import INVALID, Refusal
from pronk_param_server.state import State

MAX_WATCH_SECONDS = 3600
"""Longest watch; a reader opens the next one then."""
MAX_WATCHES = 64
"""Watches of one connection: a process needs one per policy."""
MAX_WATCHES_OF_ALL = 12_288
"""Three quarters of the calls that the server answers at once: what goes on and on leaves room for
what keeps the cluster alive, heartbeats and publishes, however many connections somebody opens."""


class News:
    """Wakes the watchers of a policy.

    Args:
        state: what is true.
        blobs: the versions' bytes, of which small ones come with the news.
    """

    def __init__(self, state: State, blobs: Blobs) -> None:
        self._state = state
        self._blobs = blobs
        self._events = {policy: asyncio.Event() for policy in state.policies}
        self._watches = AtOnce(MAX_WATCHES, MAX_WATCHES_OF_ALL, "watches")
        self._closing = False

    async def watch(
        self, request: pb.WatchRequest, context: Context
    ) -> AsyncIterator[pb.WatchResponse]:
        """The newest version, and every newer one that the reader is ready for.

        Raises:
            Refusal: no deadline, too late a one, too many watches, or an unknown policy.
        """
        remaining = context.time_remaining()
        if remaining is None or remaining > MAX_WATCH_SECONDS:
            raise Refusal(INVALID, f"a watch needs a deadline of at most {MAX_WATCH_SECONDS} s")
        after, sent = request.after_number, set[str]()
        with self._watches.one_more(context):
            while not self._closing:
                newest = self._state.newest(request.policy)
                event = self._events[request.policy]
                if newest is not None and newest.version.number > after:
                    after = newest.version.number
                    names = set(newest.blobs)
                    blobs = self._blobs.small(names - sent, INLINE_BYTES)
                    sent = names
                    yield pb.WatchResponse(manifest=newest, blobs=blobs)
                else:
                    await event.wait()

    def announce(self, policy: str) -> None:
        """There is a newer version."""
        event, self._events[policy] = self._events[policy], asyncio.Event()
        event.set()

    def close(self) -> None:
        """End all watches."""
        self._closing = True
        for policy in self._events:
            self.announce(policy)
