"""The happy path leaves PostgreSQL next to nothing to clean up."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from antiphon import Event, Service, Transaction
from antiphon.runtime.runtime import Runtime
from tests.store.postgres import database, name_of

psycopg = pytest.importorskip("psycopg")

pytestmark = pytest.mark.anyio

EVENTS = 2_000


class Ordered(Event, key="customer"):
    customer: str
    n: int


@pytest.fixture
def url() -> Iterator[str]:
    """A database of the test's own, whose old rows no other's transactions keep."""
    with database() as found:
        yield found


async def test_the_happy_path_leaves_next_to_nothing_dead(url: str, tmp_path: Path) -> None:
    """Nothing is deleted, and the one row that is updated for a batch is all but always updated in place: its dead
    versions stay on its page or two, which are cleaned when they are full, and no other table has any."""
    billing = Service("billing", tables="CREATE TABLE bills (n INTEGER PRIMARY KEY);")

    @billing.on(Ordered)
    async def bill(event: Ordered, tx: Transaction) -> None:
        await tx.execute("INSERT INTO bills VALUES (?)", event.n)

    name = name_of(tmp_path)
    runtime = Runtime(name, [Service("shop").spec, billing.spec], data=tmp_path, store=url)
    await runtime.start()
    try:
        store = runtime.stores["shop"]
        published = 0
        while published < EVENTS:
            count = 200 if published < EVENTS // 2 else 5
            await runtime.publish("shop", *(Ordered(f"c{n % 31}", n) for n in range(published, published + count)))
            published += count
        while (await store.fetch_all("SELECT count(*) FROM bills"))[0][0] < EVENTS:
            await store.fetch_all("SELECT pg_sleep(0.01)")
        batches = (await store.fetch_all("SELECT count(*) FROM antiphon_progress"))[0][0]
    finally:
        await runtime.stop()
    with psycopg.connect(url, autocommit=True) as server:

        def told() -> dict[str, tuple[int, ...]]:
            """By table: inserted, updated, updated in place, deleted, dead; as far as sessions have told."""
            found = server.execute(
                "SELECT pg_stat_clear_snapshot(), relname, n_tup_ins, n_tup_upd, n_tup_hot_upd, n_tup_del, n_dead_tup"
                " FROM pg_stat_user_tables WHERE schemaname = %s AND relname LIKE 'antiphon%%'",
                (name,),
            )
            return {row[1]: tuple(row[2:]) for row in found}

        while told()["antiphon_log"][0] < EVENTS or told()["antiphon_handlers"][1] < batches:
            server.execute("SELECT pg_sleep(0.01)")
        tables = told()
        pages = server.execute(f"SELECT pg_relation_size('{name}.antiphon_handlers') / 8192").fetchone()
    _, updated, in_place, *_ = tables["antiphon_handlers"]
    assert updated >= batches > 0
    assert in_place >= 0.9 * updated
    assert pages is not None
    assert pages[0] <= 2
    others = {name: counts for name, counts in tables.items() if name not in ("antiphon_handlers", "antiphon_workers")}
    assert {name for name, (_, updates, _, deleted, dead) in others.items() if updates or deleted or dead} == set()
