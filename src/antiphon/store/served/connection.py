"""What the stores on a database server take for granted of addresses and connections."""

from __future__ import annotations

from typing import Protocol, TypeVar


class Where(Protocol):
    """Where a store is."""

    @property
    def name(self) -> str:
        """What people call the store."""

    @property
    def shown(self) -> str:
        """The whole of it, without its password."""


class Connection(Protocol):
    """A connection to the server."""

    @property
    def closed(self) -> bool:
        """Whether nothing can be said any more."""

    async def close(self) -> None:
        """Close it. Idempotent."""


W = TypeVar("W", bound=Where)
C = TypeVar("C", bound=Connection)
