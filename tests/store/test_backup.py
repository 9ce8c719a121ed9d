"""Backups: copies of stores in use, sound and of one moment."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
from pathlib import Path

import pytest

from antiphon.errors import StoreCorrupt, StoreError
from antiphon.store.desk import Desk
from antiphon.store.sqlite.backups import check
from antiphon.store.sqlite.desks import backup, backup_all
from antiphon.store.sqlite.store import SqliteStore
from antiphon.testing.clock import VirtualClock
from tests.runtime.kit import World, running
from tests.store.shops import Ordered, Shop, order

pytestmark = pytest.mark.anyio


async def keep_publishing(world: World, acknowledged: list[int]) -> None:
    """Publish one order after the other until cancelled; notes those that are durable."""
    n = 0
    while True:
        await world.runtime.publish("shop", Ordered(f"c{n % 7}", n))
        acknowledged.append(n)
        n += 1
        await asyncio.sleep(0)


async def until_some(acknowledged: list[int]) -> None:
    """Return when that writer is well on its way: it never comes to rest."""
    while len(acknowledged) < 20:  # noqa: ASYNC110  nobody tells when
        await asyncio.sleep(0)


def numbers(path: Path, sql: str) -> list[int]:
    """The first column of a query on a copy."""
    connection = sqlite3.connect(path)
    try:
        return [row[0] for row in connection.execute(sql)]
    finally:
        connection.close()


async def test_a_copy_made_while_writing_is_of_one_moment(tmp_path: Path) -> None:
    """All that was acknowledged before is in it; effects, follow-ups and cursors belong together."""
    shop = Shop()
    acknowledged: list[int] = []
    async with running(tmp_path, *shop.services) as world:
        await order(world, *range(10_000, 10_500))
        writer = asyncio.ensure_future(keep_publishing(world, acknowledged))
        await until_some(acknowledged)
        round_ = meanwhile = 0
        while meanwhile < 3:
            before = len(acknowledged)
            target = tmp_path / f"copy{round_}.db"
            report = await backup(Desk(world.store), target)
            assert report.sound, report.problems
            assert report.handlers == 2
            copied = numbers(target, "SELECT data ->> 'n' FROM antiphon_log WHERE type = 'Ordered'")
            assert len(copied) >= 500 + before
            billed = numbers(target, "SELECT data ->> 'n' FROM antiphon_log WHERE type = 'Billed'")
            assert sorted(billed) == sorted(numbers(target, "SELECT n FROM bills"))
            meanwhile += len(acknowledged) > before  # writers went on
            round_ += 1
        writer.cancel()
        await asyncio.gather(writer, return_exceptions=True)
    assert [path.name for path in tmp_path.iterdir() if "partial" in path.name] == []


async def test_a_restored_copy_goes_on_where_it_was(tmp_path: Path) -> None:
    """Put in place of the store and started: what was open is handled, what was done is not done again."""
    clock = VirtualClock()
    shop = Shop()
    shop.failing = {2}
    async with running(tmp_path / "one", *shop.services, clock=clock) as world:
        await order(world, 1, 2)
        await backup(Desk(world.store), tmp_path / "two" / "app.db")
        await order(world, 3)
    assert check(tmp_path / "two" / "app.db").sound
    again = Shop()
    async with running(tmp_path / "two", *again.services, clock=clock) as world:
        desk = Desk(world.store)
        await desk.dead.redrive_one((await desk.dead.list())[0].event_id)
        await clock.rest()
        assert again.billed == [("c2", 2)]
        assert await world.rows("SELECT n FROM bills ORDER BY n") == [(1,), (2,)]
        assert [each.lag for each in await desk.status()] == [0, 0]


async def test_copies_of_all_stores_belong_together(tmp_path: Path) -> None:
    """Services with a file each, copied while they exchange events and restored: nothing lost, nothing twice."""
    clock = VirtualClock()
    shop = Shop()
    acknowledged: list[int] = []
    async with running(tmp_path / "one", *shop.services, own_stores=True, clock=clock) as world:
        writer = asyncio.ensure_future(keep_publishing(world, acknowledged))
        await until_some(acknowledged)
        assert world.runtime.hub is not None
        desks = [Desk(store) for store in (*world.runtime.stores.values(), world.runtime.hub)]
        reports = await backup_all(desks, tmp_path / "two")
        assert [Path(report.path).name for report in reports] == ["shop.db", "billing.db", "audit.db", "bus.db"]
        assert all(report.sound for report in reports)
        writer.cancel()
        await asyncio.gather(writer, return_exceptions=True)
    two = tmp_path / "two"
    published = numbers(two / "shop.db", "SELECT data ->> 'n' FROM antiphon_log")
    assert published == list(range(len(published)))
    assert len(published) > 5
    assert numbers(two / "bus.db", "SELECT seq FROM antiphon_positions WHERE name = 'outlet:shop'") <= [len(published)]
    again = Shop()
    async with running(two, *again.services, own_stores=True, clock=clock) as world:
        await order(world, 90_000)
        expected = sorted([*published, 90_000])
        for _ in range(50):
            await clock.advance(1)
            billing, audit = world.runtime.stores["billing"], world.runtime.stores["audit"]
            bills = [row[0] for row in await billing.fetch_all("SELECT n FROM bills")]
            heard = await audit.fetch_all("SELECT type, data ->> 'n' FROM antiphon_log")
            if len(bills) >= len(expected) and len(heard) >= 2 * len(expected):
                break
        assert sorted(bills) == expected
        for type_ in ("Ordered", "Billed"):
            assert sorted(n for kind, n in heard if kind == type_) == expected


async def test_copies_wait_for_writers_of_other_processes(tmp_path: Path) -> None:
    """No snapshot of any file is taken while somebody writes to one of them."""
    async with running(tmp_path / "one", *Shop().services, own_stores=True, only=["shop", "audit"]) as world:
        shop, audit = world.runtime.stores["shop"], world.runtime.stores["audit"]
        other = audit.place.gate(world.clock)  # locks as another process would
        await other.acquire()
        copying = asyncio.ensure_future(backup_all([Desk(shop), Desk(audit)], tmp_path / "two"))
        await world.clock.rest()
        for store in (shop, audit):
            connection = sqlite3.connect(store.path)
            with connection:
                connection.execute("CREATE TABLE late (n)")
            connection.close()
        other.release()
        other.close()
        await copying
    for name in ("shop", "audit"):
        assert numbers(tmp_path / "two" / f"{name}.db", "SELECT count(*) FROM late") == [0]


async def test_a_backup_overwrites_nothing(tmp_path: Path) -> None:
    """A file that is there stays as it is, and none of several copies is begun."""
    async with running(tmp_path, *Shop().services) as world:
        target = tmp_path / "kept.db"
        target.write_text("precious")
        with pytest.raises(StoreError, match="exists already"):
            await backup(Desk(world.store), target)
        assert target.read_text() == "precious"
        await order(world, 1)  # no writer is left behind a closed gate


async def test_a_damaged_copy_is_told(tmp_path: Path) -> None:
    """Bytes that were changed, a file that is no database, one that is no store, one from the future."""
    async with running(tmp_path, *Shop().services) as world:
        await order(world, *range(300))
        for name in ("torn", "newer", "torn2"):
            assert (await backup(Desk(world.store), tmp_path / f"{name}.db")).sound
    torn = bytearray((tmp_path / "torn.db").read_bytes())
    torn[8192:20000] = b"\x5a" * (20000 - 8192)
    (tmp_path / "torn.db").write_bytes(torn)
    try:
        assert not check(tmp_path / "torn.db").sound
    except StoreCorrupt as error:
        assert "Restore it from a backup" in str(error)
    (tmp_path / "text.db").write_text("this is no database, it is a text that is long enough to be read as a header")
    with pytest.raises(StoreCorrupt):
        check(tmp_path / "text.db")
    foreign = sqlite3.connect(tmp_path / "foreign.db")
    foreign.execute("CREATE TABLE notes (n)")
    foreign.close()
    assert check(tmp_path / "foreign.db").problems == ("it is no store of Antiphon",)
    newer = sqlite3.connect(tmp_path / "newer.db", isolation_level=None)
    newer.execute("UPDATE antiphon_meta SET value = 99 WHERE name = 'version'")
    newer.close()
    assert "version 99" in check(tmp_path / "newer.db").problems[0]
    with pytest.raises(StoreError, match="no such file"):
        check(tmp_path / "missing.db")


async def test_what_contradicts_itself_is_told(tmp_path: Path) -> None:
    """A cursor beyond the log, a delivery without its event: pieces of different copies."""
    async with running(tmp_path, *Shop().services) as world:
        await order(world, 1)
        await backup(Desk(world.store), tmp_path / "copy.db")
    shutil.copy(tmp_path / "copy.db", tmp_path / "mixed.db")
    mixed = sqlite3.connect(tmp_path / "mixed.db", isolation_level=None)
    mixed.execute("UPDATE antiphon_handlers SET seq = 99 WHERE name = 'billing.bill'")
    mixed.execute("INSERT INTO antiphon_deliveries (handler_id, seq, status, updated_ms) VALUES (1, 50, 'RETRY', 0)")
    mixed.close()
    assert check(tmp_path / "mixed.db").problems == (
        "handlers ahead of the log: 1",
        "open or dead deliveries without their event: 1",
    )


async def test_a_copy_is_one_file_with_nothing_beside_it(tmp_path: Path) -> None:
    """No WAL to forget when it is carried away; checking it leaves nothing either."""
    store = SqliteStore(tmp_path / "store.db", clock=VirtualClock(), owner="test")
    await store.open()
    try:
        report = await backup(Desk(store), tmp_path / "far" / "copy.db")
        assert (report.events, report.sound, report.path) == (0, True, str(tmp_path / "far" / "copy.db"))
    finally:
        await store.close()
    assert check(tmp_path / "far" / "copy.db") == report
    assert [path.name for path in (tmp_path / "far").iterdir()] == ["copy.db"]
