"""Servers of a test's own, which it can kill: their data lies in its folder."""

from __future__ import annotations

import asyncio
import shutil
import signal
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from tests.conftest import require

_PATIENCE_S = 30


class Server:
    """One server process on a port that stays the same."""

    def __init__(self, command: Sequence[str], port: int) -> None:
        self._command = command
        self._process: asyncio.subprocess.Process | None = None
        self.port = port

    async def start(self) -> None:
        """Start it, and wait until it takes connections."""
        quiet = asyncio.subprocess.DEVNULL
        self._process = await asyncio.create_subprocess_exec(*self._command, stdout=quiet, stderr=quiet)
        async with asyncio.timeout(_PATIENCE_S):
            while not await self._listens():
                assert self._process.returncode is None, f"{self._command[0]} ended"

    async def kill(self) -> None:
        """SIGKILL."""
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(signal.SIGKILL)
            await self._process.wait()

    async def _listens(self) -> bool:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", self.port)
        except OSError:
            return False
        writer.close()
        return True


@asynccontextmanager
async def server_of(name: str, folder: Path) -> AsyncIterator[tuple[Server, str]]:
    """A server of the broker *name*, and its URL."""
    port = _free_port()
    folder.mkdir()
    if name == "nats":
        command = ["nats-server", "-a", "127.0.0.1", "-p", str(port), "-js", "-sd", str(folder)]
        url = f"nats://127.0.0.1:{port}"
    else:
        options = {"port": port, "bind": "127.0.0.1", "dir": folder, "save": "", "appendonly": "yes"}
        options["appendfsync"] = "always"
        command = ["redis-server", *(part for key, value in options.items() for part in (f"--{key}", str(value)))]
        url = f"redis://127.0.0.1:{port}"
    require(command[0], shutil.which(command[0]) is not None)
    server = Server(command, port)
    await server.start()
    try:
        yield server, url
    finally:
        await server.kill()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port: int = listening.getsockname()[1]
        return port
