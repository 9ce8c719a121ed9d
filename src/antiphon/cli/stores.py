"""The stores of a data directory, opened for questions and acts of a person."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from antiphon.cli.exits import CommandError, Exit

if TYPE_CHECKING:
    from antiphon.app import App
    from antiphon.store.desk import Desk

BUS = "bus"


@asynccontextmanager
async def open_stores(data: Path, app: App | None = None, store: str | None = None) -> AsyncIterator[list[Desk]]:
    """A desk on each store in *data*, or in the database at the URL *store*, or on those of *app*; the bus last.

    Raises CommandError if there is no such directory, or no store in it.
    """
    from antiphon.runtime.clock import SystemClock
    from antiphon.store.engines import desks_at

    if store is None:
        _check_directory(data)
    async with desks_at(store, data, SystemClock(), app.event_types if app else None) as desks:
        if app is not None:
            own = {*app.services, *app.channels, BUS} if app.own_stores else {app.name}
            desks = [desk for desk in desks if desk.name in own]
        if not desks:
            what = f"there is no store of {app.name} in it" if app else "there is no store in it"
            raise _no_stores(what, data if store is None else "the database")
        yield desks


def _check_directory(data: Path) -> None:
    if not data.is_dir():
        raise _no_stores("there is no such directory", data)


def _no_stores(what: str, where: Path | str) -> CommandError:
    return CommandError(
        what,
        code=Exit.STORE,
        where=str(where),
        mend="Start the application with antiphon run, or name its data: --data DIR or $ANTIPHON_DATA, --store URL",
    )
