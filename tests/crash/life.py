"""A short life of the shop on a disk that notes every operation, and what it tells others meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Literal

from antiphon import seconds
from antiphon.runtime.runtime import Runtime
from antiphon.store import maintenance
from antiphon.store.sqlite import backups
from antiphon.store.sqlite.checkpoints import checkpoint
from tests.crash.dbapi import Connection, spoken_by_apsw
from tests.crash.disk import Operation, Recording
from tests.crash.shop import EFFECTS, KEYS, Ordered, app_of

Synchronous = Literal["FULL", "NORMAL", "OFF"]

#: The folders that it works in. It notes the files of a backup, the number of an order, the rows of a table so far.
DATA, BACKUP, ACKNOWLEDGED = "data", "backup", "acknowledged"
_PATIENCE_S = 20.0


def record(folder: Path, synchronous: Synchronous, *, orders: int = 40) -> list[Operation]:
    """All that an application does to its disk in a short life, with what it told others in between."""
    name = f"recording-{folder}"
    disk = Recording(name, folder)

    def opened(connection: Connection) -> None:
        if synchronous != "FULL":
            connection.instead["PRAGMA synchronous = FULL"] = f"PRAGMA synchronous = {synchronous}"

    with spoken_by_apsw(name, opened), disk.watching():
        asyncio.run(_life(disk, folder / DATA, orders))
    disk.unregister()
    return disk.operations


async def _life(disk: Recording, data: Path, orders: int) -> None:
    """Start; work; checkpoint; work; prune, back up, and work meanwhile; stop; start again; work; stop."""
    async with _running(disk, data) as runtime:
        await _ordering(disk, runtime, 0, orders)
        await _checkpoint(runtime, empty=False)
        await _ordering(disk, runtime, orders, orders)
        await _checkpoint(runtime, empty=True)
        for store in runtime.logs:
            await maintenance.prune(store, runtime.clock.now_ms())
        busy = asyncio.create_task(_ordering(disk, runtime, 2 * orders, orders))
        target = data.parent / BACKUP
        await backups.backup([(store, target / store.path.name) for store in runtime.logs])
        disk.note(BACKUP, [f"{BACKUP}/{store.path.name}" for store in runtime.logs])
        await busy
    async with _running(disk, data) as runtime:
        await _ordering(disk, runtime, 3 * orders, orders)


@asynccontextmanager
async def _running(disk: Recording, data: Path) -> AsyncIterator[Runtime]:
    """The application, with somebody who looks at its tables all the time: what was seen once must stay."""
    async with app_of(own_stores=True).run_in(data) as runtime:
        watching = [asyncio.create_task(_watch(disk, runtime, *each)) for each in EFFECTS.items()]
        yield runtime
        for task in watching:
            task.cancel()


async def _watch(disk: Recording, runtime: Runtime, service: str, table: str) -> None:
    store = runtime.store_of(service)
    committed = asyncio.Event()
    store.listen((), committed.set)
    while True:
        await committed.wait()
        committed.clear()
        disk.note(table, (await store.fetch_all(f"SELECT count(*) FROM {table}"))[0][0])


async def _ordering(disk: Recording, runtime: Runtime, first: int, orders: int) -> None:
    """Publish orders, a few at a time and one for later; return when all have been billed and counted."""

    async def lane(number: int) -> None:
        for n in range(first + number, first + orders - 1, KEYS):
            await runtime.publish("shop", Ordered(f"c{number}", n, "of several pages" * (n % 50 * 10)))
            disk.note(ACKNOWLEDGED, n)

    await asyncio.gather(*(lane(number) for number in range(KEYS)))
    late = first + orders - 1
    async with runtime.transaction("shop") as tx:
        await tx.publish_later(Ordered("late", late), delay=seconds(0.02))
    disk.note(ACKNOWLEDGED, late)
    async with asyncio.timeout(_PATIENCE_S):
        while any([await _written(runtime, *each) < first + orders for each in EFFECTS.items()]):
            await runtime.clock.sleep(0.002)


async def _written(runtime: Runtime, service: str, table: str) -> int:
    return int((await runtime.store_of(service).fetch_all(f"SELECT count(*) FROM {table}"))[0][0])


async def _checkpoint(runtime: Runtime, *, empty: bool) -> None:
    for store in runtime.logs:
        await store.writer.exclusive(partial(checkpoint, empty=empty))
