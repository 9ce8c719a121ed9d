"""A connection of pika's that sends many messages with one call of the system, where pika makes three for each."""

from __future__ import annotations

import asyncio
from typing import Any

from pika.adapters.asyncio_connection import AsyncioConnection

_PIECE = 65_536


class Line(AsyncioConnection):  # type: ignore[misc]  # pika says its types, and not that it does
    """pika's connection; all that it is given to send in one turn of the loop goes in a few pieces."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._unsent = bytearray()
        super().__init__(*arguments, **options)

    def _adapter_emit_data(self, data: bytes) -> None:
        if not self._unsent:
            asyncio.get_running_loop().call_soon(self._emit)
        self._unsent += data
        if len(self._unsent) >= _PIECE:
            self._emit()

    def _emit(self) -> None:
        unsent, self._unsent = bytes(self._unsent), bytearray()
        if unsent and not self.is_closed:
            super()._adapter_emit_data(unsent)

    def _on_connection_workflow_done(self, conn_or_exc: Any) -> None:
        # Of what is given up amid the handshake pika hands over the class of the error, and takes it for a connection.
        super()._on_connection_workflow_done(conn_or_exc() if isinstance(conn_or_exc, type) else conn_or_exc)
