"""Behind a PgBouncer in transaction mode, the PostgreSQL store and bus keep what they promise, and so does an app."""

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("psycopg")

import psycopg

from antiphon import Event, Service, Transaction
from antiphon.ports import Bus, Clock, Store
from antiphon.runtime import ahead
from antiphon.runtime.runtime import Runtime
from antiphon.testing.clock import ServerTime
from antiphon.testing.conformance import BUS_CHECKS, STORE_CHECKS, BusCheck, MakeBus, MakeStore, StoreCheck
from tests.store.pgbouncer import Bouncer, bouncer
from tests.store.postgres import name_of

pytestmark = pytest.mark.anyio


class Ordered(Event, key="customer"):
    customer: str
    n: int


class Billed(Event, key="customer"):
    customer: str
    n: int


@pytest.fixture(scope="module")
def pooler() -> Iterator[Bouncer]:
    """A PgBouncer for all of these tests; each has roles and schemas of its own."""
    with bouncer() as found:
        yield found


@pytest.fixture
def make_store(pooler: Bouncer) -> MakeStore:
    """A store on a schema that stands for the path's name."""
    from antiphon.store.postgres.connection import address
    from antiphon.store.postgres.store import PostgresStore

    servers: dict[Path, ServerTime] = defaultdict(ServerTime)

    def make(path: Path, *, clock: Clock, owner: str) -> Store:
        schema = pooler.schema(name_of(path))
        where = address(pooler.url(schema), schema)
        return PostgresStore(where, clock=clock, owner=owner, server_ms=servers[path].ms(clock))

    return make


@pytest.fixture
def make_bus(pooler: Bouncer) -> MakeBus:
    """A bus on a schema that stands for the path's name."""
    from antiphon.store.postgres.bus import PostgresBus
    from antiphon.store.postgres.connection import address

    def make(path: Path, *, clock: Clock, owner: str) -> Bus:
        schema = pooler.schema(name_of(path))
        return PostgresBus(address(pooler.url(schema), schema), clock=clock, owner=owner)

    return make


@pytest.mark.parametrize("check", STORE_CHECKS, ids=lambda check: check.__name__)
async def test_store(check: StoreCheck, make_store: MakeStore, tmp_path: Path) -> None:
    """The promise in the check's own docstring."""
    await check(make_store, tmp_path)


@pytest.mark.parametrize("check", BUS_CHECKS, ids=lambda check: check.__name__)
async def test_bus(check: BusCheck, make_bus: MakeBus, tmp_path: Path) -> None:
    """The promise in the check's own docstring."""
    await check(make_bus, tmp_path)


@pytest.mark.parametrize("trusted_after", [0, 1_000_000], ids=["together", "with care"])
async def test_a_chain_takes_effect_once(
    pooler: Bouncer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trusted_after: int
) -> None:
    """Orders are billed and counted through the bouncer, once each, while the server's sessions change hands; the
    app's statements prepare nothing that another session would lack."""
    monkeypatch.setattr(ahead, "TRUSTED_AFTER", trusted_after)
    name = pooler.schema(name_of(tmp_path))
    shop = Service("shop")
    billing = Service("billing", tables="CREATE TABLE bills (n INTEGER PRIMARY KEY);")
    counter = Service("counter", tables="CREATE TABLE total (n INTEGER); INSERT INTO total VALUES (0);")

    @billing.on(Ordered)
    async def bill(event: Ordered, tx: Transaction) -> Billed:
        assert await tx.execute("INSERT INTO bills VALUES (?)", event.n) == 1
        return Billed(event.customer, event.n)

    @counter.on(Billed)
    async def count(event: Billed, tx: Transaction) -> None:
        before = await tx.fetch_value("SELECT n FROM total")
        await tx.execute("UPDATE total SET n = ?", before + 1)

    specs = [service.spec for service in (shop, billing, counter)]
    runtime = Runtime(name, specs, data=tmp_path, store=pooler.url(name))
    await runtime.start()
    try:
        store = runtime.stores["shop"]
        for first in range(0, 500, 100):
            await runtime.publish("shop", *(Ordered(f"c{n % 17}", n) for n in range(first, first + 100)))
        while (await store.fetch_all("SELECT n FROM total"))[0][0] < 500:
            await store.fetch_all("SELECT pg_sleep(0.01)")
        assert (await store.fetch_all("SELECT count(*) FROM bills"))[0][0] == 500
        assert [tuple(row) for row in await store.fetch_all("SELECT * FROM antiphon_attempts")] == []
    finally:
        await runtime.stop()
    with psycopg.connect(pooler.url(name).partition("?")[0]) as through:
        shown = through.execute("SELECT count(*) FROM pg_prepared_statements").fetchone()
        assert shown == (0,)
