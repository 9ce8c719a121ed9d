"""Servers of one's own, and the line to them: what the conformance suite and its users break on purpose."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from antiphon.runtime.clock import SystemClock
from antiphon.testing.conformance.engines import ENGINES, Engine
from antiphon.testing.line import Line
from antiphon.testing.servers import Server, listens_at, running
from tests.conftest import require

pytestmark = pytest.mark.anyio
# A RabbitMQ takes seconds to start; it is killed and started again by tests/broker/test_systems.py.
QUICK = [each for each in ENGINES if each.server is not None and each.name in ("postgres", "nats", "redis")]


@pytest.mark.parametrize("engine", QUICK, ids=lambda engine: engine.name)
async def test_where_nobody_listens_a_server_is_started(engine: Engine) -> None:
    """It is reached as long as it is needed, also when it was killed in between, and leaves nothing behind."""
    assert engine.server is not None
    require(f"a server of {engine.name}", engine.server.is_there())
    async with engine._replace(url="nats://127.0.0.1:9").reached() as url:
        assert url is not None
        assert await listens_at(url)
    assert not await listens_at(url)
    async with running(engine.server) as server:
        assert server.folder.exists()
        await server.kill()
        assert not await listens_at(server.url)
        await server.start()
        assert await listens_at(server.url)
    assert not server.folder.exists()


async def test_what_is_nowhere_is_not_reached() -> None:
    """No URL without a server, so that its checks are skipped."""
    async with Engine("abacus", "nats://127.0.0.1:9").reached() as url:
        assert url is None


async def test_a_server_that_does_not_start_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error holds its last words."""

    class Broken(Server):
        scheme = "broken"

        @classmethod
        def is_there(cls) -> bool:
            return True

        @property
        def command(self) -> tuple[str, ...]:
            return ("sh", "-c", "echo the disk is upside down; exit 3")

    monkeypatch.setattr("antiphon.testing.servers.PATIENCE_S", 0.2)
    with pytest.raises(TimeoutError, match="upside down"):
        async with running(Broken):
            pass


class Echo:
    """A server that says what it is told, by way of a line."""

    def __init__(self, line: Line) -> None:
        self.line = line
        self.writers: list[asyncio.StreamWriter] = []

    async def connected(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection by way of the line."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.line.port)
        self.writers.append(writer)
        return reader, writer


@asynccontextmanager
async def echo() -> AsyncIterator[Echo]:
    """It, and a line to it."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(100):
            writer.write(data)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        line = Line(f"echo://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        await line.mend()
        there = Echo(line)
        try:
            yield there
        finally:
            await line.end()
            for writer in there.writers:
                writer.transport.abort()


async def test_a_line_is_cut_and_mended() -> None:
    """What is connected breaks, nobody gets through until it is mended, and then at the same port."""
    async with echo() as there:
        reader, writer = await there.connected()
        writer.write(b"one")
        assert await reader.readexactly(3) == b"one"
        await there.line.cut()
        assert there.line.broken > 0
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await reader.readexactly(1)
        with pytest.raises(OSError, match="onnect"):
            await there.connected()
        await there.line.mend()
        reader, writer = await there.connected()
        writer.write(b"two")
        assert await reader.readexactly(3) == b"two"


@pytest.mark.parametrize("way", ["there", "back"])
async def test_a_way_is_closed(way: str) -> None:
    """What goes there, or comes back, is lost while the connection stays open."""
    async with echo() as there:
        reader, writer = await there.connected()
        there.line.close_way("there" if way == "there" else "back")
        writer.write(b"lost")
        await there.line.lost()
        await there.line.cut()
        await there.line.mend()
        reader, writer = await there.connected()
        writer.write(b"found")
        assert await reader.readexactly(5) == b"found"


async def test_a_line_is_slow() -> None:
    """What goes through takes longer, each way."""
    async with echo() as there:
        there.line.delay_s = 0.05
        reader, writer = await there.connected()
        begun = asyncio.get_running_loop().time()
        writer.write(b"one")
        assert await reader.readexactly(3) == b"one"
        assert asyncio.get_running_loop().time() - begun >= 0.1


_STARTING = """
import asyncio, sys
from antiphon.testing.conformance.engines import ENGINES
server = {each.name: each for each in ENGINES}[sys.argv[1]].server()
asyncio.run(server.start())
print(server.folder, server.url, flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("engine", QUICK, ids=lambda engine: engine.name)
async def test_a_killed_test_leaves_no_server_behind(engine: Engine) -> None:
    """It could not end it any more; nothing of it is there for long."""
    assert engine.server is not None
    require(engine.name, engine.server.is_there())
    pipe = asyncio.subprocess.PIPE
    test = await asyncio.create_subprocess_exec(sys.executable, "-c", _STARTING, engine.name, stdin=pipe, stdout=pipe)
    try:
        assert test.stdout is not None
        folder, url = (await test.stdout.readline()).decode().split()
        assert Path(folder).is_dir()
        assert await listens_at(url)
    finally:
        test.kill()
        await test.wait()
    async with asyncio.timeout(30):
        while Path(folder).exists() or await listens_at(url):
            await SystemClock().sleep(0.02)
