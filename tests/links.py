"""TCP links that can be cut, or are slow: what is sent over a cut one arrives once it is mended."""

import asyncio
import threading
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, Self

_CHUNK = 1 << 16


class Links:
    """Forwards connections, all links on one thread of their own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="links", daemon=True)
        self._servers: list[asyncio.Server] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._do(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)

    def to(self, port: int, bytes_per_second: float | None = None) -> "Link":
        """A new link to a loopback port; each connection and direction as slow as it says."""
        link: Link = self._do(self._open(port, bytes_per_second))
        return link

    def _do(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _open(self, port: int, bytes_per_second: float | None) -> "Link":
        link = Link(self._loop, port, bytes_per_second)
        server = await asyncio.start_server(link.serve, "127.0.0.1", 0)
        self._servers.append(server)
        link.port = server.sockets[0].getsockname()[1]
        return link

    async def _close(self) -> None:
        for server in self._servers:
            server.close()
        pumps = asyncio.all_tasks() - {asyncio.current_task()}
        for pump in pumps:
            pump.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)


class Link:
    """One way in, to one target."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, target: int, bytes_per_second: float | None
    ) -> None:
        self.port = 0
        self._loop = loop
        self._target = target
        self._bytes_per_second = bytes_per_second
        self._whole = asyncio.Event()
        self._whole.set()

    def cut(self) -> None:
        """From now on nothing passes, and connections hang as they do when a cable is pulled."""
        self._loop.call_soon_threadsafe(self._whole.clear)

    def mend(self) -> None:
        """Let everything pass again."""
        self._loop.call_soon_threadsafe(self._whole.set)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Forward one connection until either side, or all links, are closed."""
        with suppress(asyncio.CancelledError):
            await self._forward(reader, writer)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._whole.wait()
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.close()
            return
        await asyncio.gather(self._pump(reader, back), self._pump(there, writer))

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(_CHUNK):
                await self._whole.wait()
                if self._bytes_per_second:
                    await asyncio.sleep(len(data) / self._bytes_per_second)
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()
