"""Connections between simulated processes and what stands in for the outside world, in memory."""

from __future__ import annotations

import asyncio
import random  # noqa: TID251  seeded: it is the same in every run
from collections.abc import Callable
from contextvars import Context, copy_context
from typing import Any

from antiphon.simulate.loop import SimLoop
from antiphon.simulate.process import PROCESS, Effects

_LATENCY_S = 0.002
_NAMES = {"localhost": "127.0.0.1", "::1": "127.0.0.1", "": "127.0.0.1"}
Protocols = Callable[[], asyncio.BaseProtocol]


class Network:
    """Who listens where. Bytes arrive in order, a moment later; a connection may be refused, or break."""

    def __init__(self, loop: SimLoop, effects: Effects, seed: int) -> None:
        self.loop = loop
        loop.network = self
        self.effects = effects
        self._random = random.Random(f"{seed}:network")
        self._servers: dict[tuple[str, int], tuple[Protocols, Context]] = {}

    def stand_in(self, host: str, port: int, protocols: Protocols) -> None:
        """Let *protocols* answer at an address that lies outside the application."""
        self._servers[_address(host, port)] = (protocols, Context())

    def latency(self) -> float:
        """How long the next bytes take, in seconds."""
        return self._random.random() * _LATENCY_S

    async def listen(self, protocols: Protocols, host: Any, port: Any, options: dict[str, Any]) -> SimServer:
        """A server of the running process; it ends with it."""
        if options.get("sock") is not None or not isinstance(port, int):
            raise OSError("a simulated server listens on a host and a port of its own")
        address = _address(host, port)
        if address in self._servers:
            raise OSError(f"somebody listens at {address[0]}:{port} already")
        self._servers[address] = (protocols, copy_context())
        server = SimServer(lambda: self._servers.pop(address, None))
        process = PROCESS.get()
        if process is not None:
            process.on_kill[server] = server.close
        return server

    async def connect(self, protocols: Protocols, host: Any, port: Any, options: dict[str, Any]) -> Any:
        """Connect. Raises ConnectionError; an address without a server refuses."""
        address = _address(host, port)
        fault = self.effects.point("net", f"{address[0]}:{address[1]}".encode())
        await asyncio.sleep(self.latency() + (fault.seconds if fault is not None and fault.kind == "delay" else 0.0))
        server = self._servers.get(address)
        if server is None or options.get("ssl"):
            raise ConnectionRefusedError(f"nobody listens at {address[0]}:{address[1]}")
        if fault is not None and fault.kind == "drop" and fault.what == "before":
            raise ConnectionResetError("the connection was lost before it was made")
        theirs, context = server
        near = SimTransport(self, protocols(), copy_context(), address)
        far = SimTransport(self, context.copy().run(theirs), context.copy(), ("127.0.0.1", 0))
        near.peer, far.peer = far, near
        far.begin()
        near.begin()
        for end, process in ((near, PROCESS.get()), (far, context.get(PROCESS))):
            if process is not None:
                process.on_kill[end] = end.vanish
        if fault is not None and fault.kind == "drop":
            # It breaks in the midst of what is said.
            self.loop.call_later(self._random.random() * 5 * _LATENCY_S, near.abort, context=Context())
        await asyncio.sleep(0)
        return near, near.get_protocol()


def _address(host: Any, port: Any) -> tuple[str, int]:
    name = str(host or "")
    return _NAMES.get(name, name), int(port or 0)


class SimServer:
    """Listens until it is closed."""

    def __init__(self, leave: Callable[[], object]) -> None:
        self._leave = leave
        self._serving = True

    def close(self) -> None:
        """Listen no more. Idempotent."""
        self._serving = False
        self._leave()

    def is_serving(self) -> bool:
        """Whether it listens."""
        return self._serving

    async def wait_closed(self) -> None:
        """It closes at once."""

    async def start_serving(self) -> None:
        """It listens from the start."""


class SimTransport(asyncio.Transport):
    """One end of a connection."""

    peer: SimTransport

    def __init__(
        self, network: Network, protocol: asyncio.BaseProtocol, context: Context, peername: tuple[str, int]
    ) -> None:
        super().__init__({"peername": peername, "sockname": ("127.0.0.1", 0)})
        self._network = network
        self._protocol: Any = protocol
        self._context = context
        self._closing = False
        self._lost = False
        self._arrives = 0.0

    def begin(self) -> None:
        """Tell the protocol that it is connected."""
        self._network.loop.call_soon(self._protocol.connection_made, self, context=self._context)

    # ------------------------------------------------------------------ what a protocol uses

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send; what is written after `close` is lost."""
        if not self._closing and data:
            self._tell(self.peer._take, bytes(data))

    def write_eof(self) -> None:
        """Say that nothing more comes."""
        self._tell(self.peer._end_of_file)

    def can_write_eof(self) -> bool:
        """It can."""
        return True

    def close(self) -> None:
        """End the connection when what was written has arrived."""
        if not self._closing:
            self._closing = True
            self._tell(self.peer._lose, None)
            self._network.loop.call_soon(self._lose, None, context=self._context)

    def abort(self) -> None:
        """Break it."""
        self._closing = True
        error = ConnectionResetError("the connection was lost")
        self._tell(self.peer._lose, error)
        self._network.loop.call_soon(self._lose, error, context=self._context)

    def vanish(self) -> None:
        """This end has died: the other is told."""
        self._closing = self._lost = True
        self._tell(self.peer._lose, ConnectionResetError("the other end has died"))

    def is_closing(self) -> bool:
        """Whether it ends."""
        return self._closing

    def get_protocol(self) -> asyncio.BaseProtocol:
        """Whom it serves."""
        return self._protocol  # type: ignore[no-any-return]

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Serve another."""
        self._protocol = protocol

    def pause_reading(self) -> None:
        """What comes is small; it is kept by the protocol."""

    def resume_reading(self) -> None:
        """See `pause_reading`."""

    def is_reading(self) -> bool:
        """Until it closes."""
        return not self._closing

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Nothing is buffered."""

    def get_write_buffer_size(self) -> int:
        """Nothing is buffered."""
        return 0

    # ------------------------------------------------------------------ what arrives

    def _tell(self, what: Callable[..., None], *args: Any) -> None:
        loop = self._network.loop
        self._arrives = max(self._arrives, loop.time() + self._network.latency())
        loop.call_at(self._arrives, what, *args, context=self.peer._context)

    def _take(self, data: bytes) -> None:
        if not self._lost:
            self._protocol.data_received(data)

    def _end_of_file(self) -> None:
        if not self._lost and not self._protocol.eof_received():
            self.close()

    def _lose(self, error: Exception | None) -> None:
        if not self._lost:
            self._closing = self._lost = True
            process = self._context.get(PROCESS)
            if process is not None:
                process.on_kill.pop(self, None)
            self._protocol.connection_lost(error)
