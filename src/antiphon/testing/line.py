"""A line to a server that can be cut, or made slow or deaf: all that goes between a program and a server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ssl import SSLContext
from typing import Literal
from urllib.parse import urlsplit

Way = Literal["there", "back"]


class Line:
    """A line to the server at *url*. `cut` breaks every connection, and refuses new ones until `mend`.

    *encrypted*: it is, on the program's side.
    """

    def __init__(self, url: str, encrypted: SSLContext | None = None) -> None:
        self._target = urlsplit(url)
        self._encrypted = encrypted
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._closed_way: Way | None = None
        self._still_through = 0
        self._held = asyncio.Event()
        self.port = 0
        #: How many connections were broken.
        self.broken = 0
        #: How many seconds whatever goes through takes longer, each way.
        self.delay_s = 0.0

    @property
    def url(self) -> str:
        """The server's URL, by way of this line."""
        user, at, _ = self._target.netloc.rpartition("@")
        return self._target._replace(netloc=f"{user}{at}127.0.0.1:{self.port}").geturl()

    async def cut(self) -> None:
        """Break what is connected, in the midst of whatever is on its way."""
        assert self._server is not None
        for listening in self._server.sockets:
            asyncio.get_running_loop().remove_reader(listening.fileno())
        # What has been accepted and is no connection yet becomes one first: asyncio forgets it with a server that is
        # closed, and its socket stays open.
        for _ in range(3):
            await asyncio.sleep(0)
        self._server.close()
        self.broken += len(self._writers)
        for writer in self._writers:
            writer.transport.abort()

    async def mend(self) -> None:
        """Let connections through, again or at first."""
        self._closed_way = None
        self.delay_s = 0.0
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port, ssl=self._encrypted)
        self.port = self._server.sockets[0].getsockname()[1]

    def close_way(self, way: Way, after: int = 0) -> None:
        """Lose what goes *there* (what is asked) or *back* (what is answered) from now on, or when *after* pieces have
        gone through; connections stay open."""
        self._closed_way = way
        self._still_through = after
        self._held.clear()

    async def lost(self) -> None:
        """Return when something was lost on the closed way."""
        await self._held.wait()

    async def end(self) -> None:
        """Cut it for good."""
        await self.cut()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """A task of our own: the one that asyncio would make is nobody's to wait for."""
        task = asyncio.ensure_future(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry one connection."""
        self._writers.add(writer)
        ends = {writer}
        try:
            there, out = await asyncio.open_connection(self._target.hostname, self._target.port)
            ends.add(out)
            self._writers.add(out)
            if self._server is None or not self._server.is_serving():
                return  # it was cut while this connection was made
            await asyncio.gather(self._carry(reader, out, "there"), self._carry(there, writer, "back"))
        except OSError:
            pass
        finally:
            self._writers -= ends
            for each in ends:
                each.transport.abort()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: Way) -> None:
        while data := await reader.read(65_536):
            if self.delay_s:
                await asyncio.sleep(self.delay_s)
            if way == self._closed_way:
                self._still_through -= 1
                if self._still_through < 0:
                    self._held.set()
                    continue
            writer.write(data)
            await writer.drain()
        writer.close()


@asynccontextmanager
async def line_to(url: str, encrypted: SSLContext | None = None) -> AsyncIterator[Line]:
    """A line to the server at *url*."""
    line = Line(url, encrypted)
    await line.mend()
    try:
        yield line
    finally:
        await line.end()
