"""Decisions, one at a time: made, stored on disk, then true."""

import asyncio
from collections.abc import Callable

from pronk_param_server.records import Change
from pronk_param_server.state import State
from pronk_param_server.store import Store
from pronk_param_server.writer import Writer


class Ledger:
    """Joins the state with its store.

    Args:
        state: what is true.
        store: where it is kept.
        writer: the thread that stores.

    Attributes:
        deciding: held between a decision and its being true.
    """

    def __init__(self, state: State, store: Store, writer: Writer) -> None:
        self._state = state
        self._store = store
        self._writer = writer
        self.deciding = asyncio.Lock()

    async def change(self, decide: Callable[[], Change | None]) -> None:
        """Decide, store, make true: all of it even if the caller goes away meanwhile.

        Args:
            decide: a `State.decide_…`; None changes nothing.

        Raises:
            Refusal: `decide` refuses.
            OSError, sqlite3.Error: the change could not be stored; nothing happened.
        """
        await asyncio.shield(asyncio.ensure_future(self._change(decide)))

    async def _change(self, decide: Callable[[], Change | None]) -> None:
        async with self.deciding:
            change = decide()
            if change is not None:
                await self._writer.run(self._store.commit, change)
                self._state.apply(change)
