"""The network in memory: bytes arrive in order, a moment later; connections are refused, and break."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from contextvars import Context
from pathlib import Path
from typing import Any

import pytest

from antiphon.simulate.faults import Fault
from antiphon.simulate.network import Network
from antiphon.simulate.process import PROCESS
from tests.simulate.rig import Rig


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    """A machine with a network."""
    made = Rig(tmp_path)
    Network(made.loop, made.effects, 0)
    yield made
    made.close()


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Give back each line."""
    while line := await reader.readline():
        writer.write(line.upper())
    writer.close()


def run(rig: Rig, work: Callable[[], Coroutine[Any, Any, None]], process: str = "client") -> None:
    """Do *work* in a process."""

    async def inside() -> None:
        context = Context()
        context.run(PROCESS.set, rig.process(process))
        await rig.loop.create_task(work(), context=context)

    Context().run(rig.loop.run_until_complete, inside())


def test_lines_arrive_whole_in_order_and_later(rig: Rig) -> None:
    """A stream is a stream: nothing is lost or swapped, and it takes time."""

    async def work() -> None:
        await asyncio.start_server(echo, "localhost", 7)
        began = rig.loop.time()
        reader, writer = await asyncio.open_connection("127.0.0.1", 7)
        for number in range(50):
            writer.write(f"line {number}\n".encode())
        writer.write_eof()
        assert await reader.read() == b"".join(f"LINE {number}\n".encode() for number in range(50))
        assert rig.loop.time() > began
        writer.close()

    run(rig, work)


def test_nobody_listens_means_refused(rig: Rig) -> None:
    """An address without a server refuses, and a port is taken by one only."""

    async def work() -> None:
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", 7)
        server = await asyncio.start_server(echo, "127.0.0.1", 7)
        with pytest.raises(OSError, match="already"):
            await asyncio.start_server(echo, "127.0.0.1", 7)
        server.close()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", 7)

    run(rig, work)


class Listener(asyncio.Protocol):
    """Notes how its connection ends."""

    def __init__(self) -> None:
        self.lost: Exception | None = None

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection has ended."""
        self.lost = exc


def test_a_dead_server_breaks_its_connections_and_listens_no_more(rig: Rig) -> None:
    """The other end is told, as by a reset."""
    server = rig.process("server")

    async def listen() -> None:
        await rig.loop.create_server(Listener, "127.0.0.1", 7)

    async def work() -> None:
        context = Context()
        context.run(PROCESS.set, server)
        await rig.loop.create_task(listen(), context=context)
        _, client = await rig.loop.create_connection(Listener, "127.0.0.1", 7)
        server.kill()
        with pytest.raises(ConnectionRefusedError):
            await rig.loop.create_connection(Listener, "127.0.0.1", 7)
        await asyncio.sleep(1)
        assert isinstance(client.lost, ConnectionResetError)

    run(rig, work)


@pytest.mark.parametrize("what", ["before", "after"])
def test_a_connection_is_lost_before_it_is_made_or_in_the_midst_of_it(rig: Rig, what: str) -> None:
    """The fault ``drop`` breaks it; whoever uses it sees a ConnectionError, or the end of the stream."""

    async def work() -> None:
        await asyncio.start_server(echo, "127.0.0.1", 7)
        rig.strike = lambda process, name: Fault("drop", 1, "client", what) if name == "net" else None
        if what == "before":
            with pytest.raises(ConnectionResetError):
                await asyncio.open_connection("127.0.0.1", 7)
            return
        reader, writer = await asyncio.open_connection("127.0.0.1", 7)
        with pytest.raises(ConnectionError):
            while True:
                writer.write(b"still there?\n")
                await writer.drain()
                assert await reader.readline()
                await asyncio.sleep(0.001)
        writer.close()

    run(rig, work)
