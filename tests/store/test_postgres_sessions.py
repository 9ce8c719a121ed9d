"""SQLAlchemy sessions in handlers and routes on PostgreSQL: the same transaction, its savepoints, what fails in it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("psycopg")
sqlalchemy = pytest.importorskip("sqlalchemy")

from sqlalchemy import JSON, DateTime, func, select, text  # noqa: E402
from sqlalchemy.exc import IntegrityError  # noqa: E402
from sqlalchemy.ext.asyncio import AsyncSession  # noqa: E402
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column  # noqa: E402

from antiphon import Event, Retry, Service, Transaction, seconds  # noqa: E402
from antiphon.errors import DeclarationError  # noqa: E402
from antiphon.runtime.runtime import Runtime  # noqa: E402
from tests.store.postgres import database, name_of  # noqa: E402
from tests.store.served import Ordered, handled, rows, running  # noqa: E402

pytestmark = pytest.mark.anyio

A_MOMENT = "SELECT pg_sleep(0.01)"
TABLES = """CREATE TABLE IF NOT EXISTS bills (
    n INTEGER PRIMARY KEY, customer TEXT NOT NULL, more JSONB, at TIMESTAMPTZ DEFAULT now(), id SERIAL);"""


class Billed(Event, key="customer"):
    customer: str
    n: int


class Base(DeclarativeBase): ...


class Bill(Base):
    __tablename__ = "bills"
    n: Mapped[int] = mapped_column(primary_key=True)
    customer: Mapped[str]
    more: Mapped[dict[str, Any]] = mapped_column(JSON, default=dict)
    at: Mapped[Any] = mapped_column(DateTime(timezone=True), server_default=func.now())


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """A database for all of these tests."""
    with database() as found:
        yield found


async def test_a_session_is_on_the_handlers_own_transaction(
    url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What it flushes commits with the settling and the published event; the ORM reads it back; nobody is told that the
    handler waits for something outside, and no transaction of the session's own is seen."""
    billing = Service("billing", tables=TABLES)

    @billing.on(Ordered)
    async def bill(event: Ordered, session: AsyncSession, tx: Transaction) -> Billed:
        session.add(Bill(n=event.n, customer=event.customer, more={"vat": [1, "é"]}))
        await session.flush()
        assert await tx.fetch_value("SELECT count(*) FROM bills WHERE n = ?", event.n) == 1
        await tx.execute("UPDATE bills SET customer = upper(customer) WHERE n = ?", event.n)
        found = await session.scalar(select(Bill.customer).where(Bill.n == event.n))
        assert found == event.customer.upper()
        await session.commit()
        again = await session.get(Bill, event.n, populate_existing=True)
        assert again is not None
        assert again.more == {"vat": [1, "é"]}
        assert again.at is not None
        return Billed(event.customer, event.n)

    caplog.set_level(logging.WARNING)
    async with running(url, name_of(tmp_path), tmp_path, billing) as runtime:
        await runtime.publish("shop", *(Ordered(f"c{n}", n) for n in range(20)))
        await handled(runtime, 20, A_MOMENT)
        assert await rows(runtime, "SELECT n, customer FROM bills ORDER BY id") == [(n, f"C{n}") for n in range(20)]
        assert await rows(runtime, "SELECT count(*) FROM antiphon_log WHERE type = 'Billed'") == [(20,)]
        # All in few batches: a handler with a session is not moved out of them.
        assert (await rows(runtime, "SELECT count(*) FROM antiphon_progress"))[0][0] < 20
    assert caplog.records == []


async def test_what_a_failed_attempt_flushed_is_undone(url: str, tmp_path: Path) -> None:
    """It leaves no row; its neighbours' are there."""
    billing = Service("billing", tables=TABLES)

    @billing.on(Ordered, retry=Retry(attempts=3, first=seconds(300)))
    async def bill(event: Ordered, session: AsyncSession) -> None:
        session.add(Bill(n=event.n, customer=event.customer))
        await session.flush()
        if event.n == 3:
            raise RuntimeError("no")
        if event.n == 4:
            session.add(Bill(n=2, customer="twice"))

    async with running(url, name_of(tmp_path), tmp_path, billing) as runtime:
        await runtime.publish("shop", *(Ordered(f"c{n}", n) for n in range(7)))
        await handled(runtime, 7, A_MOMENT)
        assert await rows(runtime, "SELECT n FROM bills ORDER BY n") == [(0,), (1,), (2,), (5,), (6,)]
        failed = await rows(runtime, "SELECT error_type FROM antiphon_attempts ORDER BY seq")
        assert failed == [("RuntimeError",), ("sqlalchemy.exc.IntegrityError",)]


async def test_a_session_goes_back_to_its_own_savepoints(url: str, tmp_path: Path) -> None:
    """A nested transaction that fails, and a rollback of the session, undo what is theirs; the handler goes on, and so
    does its Transaction between them."""
    billing = Service("billing", tables=TABLES)

    @billing.on(Ordered)
    async def bill(event: Ordered, session: AsyncSession, tx: Transaction) -> None:
        await tx.execute("INSERT INTO bills (n, customer) VALUES (?, 'kept')", 10 * event.n)
        with pytest.raises(IntegrityError):
            async with session.begin_nested():
                await session.execute(text("INSERT INTO bills (n, customer) VALUES (:n, 'no')"), {"n": 10 * event.n})
        async with session.begin_nested():
            session.add(Bill(n=10 * event.n + 1, customer="nested"))
            await session.flush()
            await tx.execute("UPDATE bills SET customer = 'both' WHERE n = ?", 10 * event.n + 1)
        await session.commit()
        session.add(Bill(n=10 * event.n + 2, customer="undone"))
        await session.flush()
        await session.rollback()
        session.add(Bill(n=10 * event.n, customer="twice"))
        with pytest.raises(IntegrityError):
            await session.flush()
        await session.rollback()
        await tx.execute("INSERT INTO bills (n, customer) VALUES (?, 'last')", 10 * event.n + 3)

    async with running(url, name_of(tmp_path), tmp_path, billing) as runtime:
        await runtime.publish("shop", Ordered("a", 1), Ordered("b", 2))
        await handled(runtime, 2, A_MOMENT)
        expected = [(10 * n + m, name) for n in (1, 2) for m, name in ((0, "kept"), (1, "both"), (3, "last"))]
        assert await rows(runtime, "SELECT n, customer FROM bills ORDER BY n") == expected


async def test_a_session_that_is_left_in_a_failed_transaction_is_the_handlers_failure(url: str, tmp_path: Path) -> None:
    """Who catches an error without going back has a failed attempt, and harms no neighbour."""
    billing = Service("billing", tables=TABLES)

    @billing.on(Ordered, retry=Retry(attempts=1))
    async def bill(event: Ordered, session: AsyncSession, tx: Transaction) -> None:
        session.add(Bill(n=event.n // 2, customer=event.customer))
        try:
            await session.flush()
        except IntegrityError:
            await tx.execute("SELECT 1")

    async with running(url, name_of(tmp_path), tmp_path, billing) as runtime:
        await runtime.publish("shop", *(Ordered(f"c{n}", n) for n in range(6)))
        await handled(runtime, 6, A_MOMENT)
        assert await rows(runtime, "SELECT n, customer FROM bills ORDER BY n") == [(0, "c0"), (1, "c2"), (2, "c4")]
        assert await rows(runtime, "SELECT count(*) FROM antiphon_deliveries WHERE status = 'FAILED'") == [(3,)]


async def test_a_statement_of_a_session_that_takes_too_long_is_the_handlers_failure(url: str, tmp_path: Path) -> None:
    """A time limit ends the statement in the server, and the attempt; the event's neighbours take effect."""
    billing = Service("billing", tables=TABLES)

    @billing.on(Ordered, retry=Retry(attempts=1), timeout=seconds(0.3))
    async def bill(event: Ordered, session: AsyncSession) -> None:
        session.add(Bill(n=event.n, customer=event.customer))
        await session.flush()
        if event.n == 1:
            await session.execute(text("SELECT pg_sleep(60)"))

    async with running(url, name_of(tmp_path), tmp_path, billing) as runtime:
        await runtime.publish("shop", *(Ordered(f"c{n}", n) for n in range(3)))
        await handled(runtime, 3, A_MOMENT)
        assert await rows(runtime, "SELECT n FROM bills ORDER BY n") == [(0,), (2,)]
        assert await rows(runtime, "SELECT error_type FROM antiphon_attempts") == [("antiphon.errors.HandlerTimeout",)]


async def test_a_connection_that_breaks_in_a_session_burns_no_attempt(url: str, tmp_path: Path) -> None:
    """The event is handled again, and takes effect once."""
    billing = Service("billing", tables=TABLES)
    end = {1}

    @billing.on(Ordered, retry=Retry(attempts=1))
    async def bill(event: Ordered, session: AsyncSession) -> None:
        session.add(Bill(n=event.n, customer=event.customer))
        await session.flush()
        if event.n in end:
            end.discard(event.n)
            await session.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))

    async with running(url, name_of(tmp_path), tmp_path, billing) as runtime:
        await runtime.publish("shop", *(Ordered(f"c{n}", n) for n in range(3)))
        await handled(runtime, 3, A_MOMENT)
        assert await rows(runtime, "SELECT n FROM bills ORDER BY n") == [(0,), (1,), (2,)]
        assert await rows(runtime, "SELECT * FROM antiphon_attempts") == []


async def test_the_runtimes_transaction_is_not_the_sessions_to_end(url: str, tmp_path: Path) -> None:
    """COMMIT in words is refused; a session that is kept after the handler's end is over."""
    billing = Service("billing", tables=TABLES)
    kept: list[AsyncSession] = []

    @billing.on(Ordered)
    async def bill(event: Ordered, session: AsyncSession) -> None:
        session.add(Bill(n=event.n, customer=event.customer))
        with pytest.raises(DeclarationError):
            await session.execute(text("COMMIT"))
        kept.append(session)

    async with running(url, name_of(tmp_path), tmp_path, billing) as runtime:
        await runtime.publish("shop", Ordered("a", 1))
        await handled(runtime, 1, A_MOMENT)
        assert await rows(runtime, "SELECT n FROM bills") == [(1,)]
        with pytest.raises(sqlalchemy.exc.InvalidRequestError):
            await kept[0].execute(text("SELECT 1"))


def test_a_session_is_refused_at_the_start_where_there_is_none(tmp_path: Path) -> None:
    """A handler that asks for one on MariaDB is told so before it runs, not event by event."""
    pytest.importorskip("asyncmy")
    asking = Service("asking")

    @asking.on(Ordered)
    async def work(event: Ordered, session: AsyncSession) -> None:
        await session.flush()

    with pytest.raises(DeclarationError, match=r"asking\.work"):
        Runtime("app", [asking.spec], data=tmp_path, store="mariadb://nowhere/app")
