"""A connection that can be cut: everything between a bus and its broker goes through here."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit


class Line:
    """A line to a server. `cut` breaks every connection, and refuses new ones until `mend`."""

    def __init__(self, url: str) -> None:
        self._target = urlsplit(url)
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None
        self.port = 0
        #: How many connections were broken.
        self.broken = 0

    @property
    def url(self) -> str:
        """The server's URL, by way of this line."""
        user, at, _ = self._target.netloc.rpartition("@")
        return self._target._replace(netloc=f"{user}{at}127.0.0.1:{self.port}").geturl()

    async def cut(self) -> None:
        """Break what is connected, in the midst of whatever is on its way."""
        assert self._server is not None
        self._server.close()
        self.broken += len(self._writers)
        for writer in self._writers:
            writer.transport.abort()

    async def mend(self) -> None:
        """Let connections through, again or at first."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry one connection."""
        there, out = await asyncio.open_connection(self._target.hostname, self._target.port)
        ends = {writer, out}
        self._writers |= ends
        try:
            await asyncio.gather(_carry(reader, out), _carry(there, writer))
        except OSError:
            pass
        finally:
            self._writers -= ends
            for each in ends:
                each.transport.abort()


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65_536):
        writer.write(data)
        await writer.drain()
    writer.close()


@asynccontextmanager
async def line_to(url: str) -> AsyncIterator[Line]:
    """A line to the server at *url*."""
    line = Line(url)
    await line.mend()
    try:
        yield line
    finally:
        await line.cut()
