"""The line that tests cut."""

from __future__ import annotations

import asyncio
import gc
import socket

import pytest

from antiphon.testing.line import line_to

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("turns", range(5))
async def test_what_comes_as_it_is_cut_leaves_no_socket_open(turns: int) -> None:
    """Whatever asyncio has made of the connection by then."""
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
    async with server, line_to(f"any://127.0.0.1:{server.sockets[0].getsockname()[1]}") as line:
        clients = [socket.create_connection(("127.0.0.1", line.port)) for _ in range(5)]
        for _ in range(turns):
            await asyncio.sleep(0)
        await line.cut()
        for client in clients:
            client.close()
        await line.mend()
    gc.collect()
