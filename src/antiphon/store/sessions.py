"""SQLAlchemy sessions inside a unit, whatever database it is of."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from antiphon.errors import DeclarationError
from antiphon.ports import Unit
from antiphon.store.sqlite.unit import SqliteUnit

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

#: What a database is called where there are sessions.
DIALECTS = ("sqlite", "postgresql")


class Sessions:
    """Makes an AsyncSession on a unit's transaction: ``async with sessions(unit) as session``."""

    def __init__(self) -> None:
        self._make: dict[type[Unit], Callable[[Any], AsyncSession]] = {}

    def __call__(self, unit: Unit) -> AsyncSession:
        make = self._make.get(type(unit))
        if make is None:
            make = self._make[type(unit)] = _sessions_of(unit)
        return make(unit)


def _sessions_of(unit: Unit) -> Callable[[Any], AsyncSession]:
    """SQLAlchemy and the driver are imported when the first session is asked for."""
    if isinstance(unit, SqliteUnit):
        from antiphon.store.sqlite import sessions as on_sqlite

        return on_sqlite.Sessions()
    from antiphon.store.postgres import sessions as on_postgres
    from antiphon.store.postgres.unit import PostgresUnit

    if not isinstance(unit, PostgresUnit):
        raise DeclarationError("there are no AsyncSessions on this database", mend="Ask for a Transaction")
    return on_postgres.Sessions()
