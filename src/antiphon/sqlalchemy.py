"""Publishing from an existing SQLAlchemy application, inside its own sessions (the outbox).

``prepare(engine)`` once (on PostgreSQL ``prepare(engine, store="shop")``), then
``await publish(session, event, service="orders")`` wherever a session is: the
event is appended to the log in the session's transaction, so it is there after the commit and never
after a rollback. The engine's database is that of an Antiphon app, which may run in this process or another.

On SQLite a prepared engine's transactions are write transactions from their first statement on, behind the same gate as
Antiphon's own: fair between processes, and safe on SQLite builds with the WAL-reset race. Sessions that
only read should not stand in that line: bind them to ``read_only(engine)``.
"""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, event
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import Session

from antiphon.declaring import caller, check_name, place
from antiphon.errors import DeclarationError, StoreError, StoreLocked
from antiphon.model.envelope import Envelope
from antiphon.model.events import MAX_PAYLOAD
from antiphon.ports import INTERNAL, PUBLISHED
from antiphon.runtime.clock import SystemClock
from antiphon.runtime.transaction import Publisher
from antiphon.store.rows import bucket_of, log_row
from antiphon.store.sqlite.connection import connect, has_wal_reset_race, refuse_network_file_system, translated
from antiphon.store.sqlite.host import Gate, host_folder, ring
from antiphon.store.sqlite.migrations import migrate
from antiphon.store.sqlite.queries import query

__all__ = ["ensure_tables", "prepare", "publish", "publish_sync", "read_only"]

AnyEngine = TypeVar("AnyEngine", Engine, AsyncEngine)

#: How long a transaction waits for its turn, in seconds.
WAIT_S = 30
_READ_ONLY = "antiphon_read_only"
_QUERY_ONLY = "antiphon_query_only"
_PREPARED = "antiphon_prepared"
_PUBLISHED = "antiphon_published"
_GATE = "antiphon_gate"

_clock = SystemClock()
# Blocking sessions publish from many threads, and a clock makes ids for one at a time.
_one_at_a_time = threading.Lock()


def prepare(engine: AnyEngine, *, store: str | None = None) -> AnyEngine:
    """Make *engine*, on SQLite with pysqlite or aiosqlite, write as Antiphon's own connections do; returns it.

    On PostgreSQL, with any driver, its transactions append what is published to the log of *store*: the name of the
    app, or with ``own_stores`` that of the service (the name of the store's schema).
    Call it before the engine connects. Raises DeclarationError for another database, or one in memory.
    """
    sync_engine = engine.sync_engine if isinstance(engine, AsyncEngine) else engine
    if sync_engine.dialect.name == "postgresql":
        if store is None:
            raise DeclarationError(
                "which store's log is meant?", where="prepare", mend="prepare(engine, store=NAME_OF_THE_APP)"
            )
        from antiphon.store.postgres.foreign import Outbox

        Outbox(store).attach(sync_engine)
        return engine
    if not event.contains(sync_engine, "connect", _configure):
        line = _Line(_file_of(sync_engine))
        event.listen(sync_engine, "connect", _configure)
        event.listen(sync_engine, "connect", line.join)
        event.listen(sync_engine, "begin", _begin)
        event.listen(sync_engine, "commit", _commit)
        event.listen(sync_engine, "rollback", _rollback)
        event.listen(sync_engine, "checkin", _leave)
        event.listen(sync_engine, "close", _part)
    return engine


def read_only(engine: AnyEngine) -> AnyEngine:
    """A prepared *engine* whose transactions only read: they wait for nobody, and a write in them fails."""
    sync_engine = engine.sync_engine if isinstance(engine, AsyncEngine) else engine
    options = {"postgresql_readonly": True} if sync_engine.dialect.name == "postgresql" else {}
    return engine.execution_options(**{_READ_ONLY: True}, **options)


def ensure_tables(engine: Engine | AsyncEngine, *, store: str | None = None) -> None:
    """Make Antiphon's tables in the engine's file, as the app's first start would. Raises StoreError.

    On PostgreSQL, in the schema of *store*. Not needed where the app has run. It may wait for another process's
    transaction.
    """
    sync_engine = engine.sync_engine if isinstance(engine, AsyncEngine) else engine
    if sync_engine.dialect.name == "postgresql" and store is not None:
        from antiphon.store.postgres.foreign import make_tables

        make_tables(sync_engine, store)
        return
    path = _file_of(sync_engine)
    line = _Line(path)
    refuse_network_file_system(path)
    gate = line.gate()
    line.wait(line.enter(gate))
    try:
        with translated(path):
            connection = connect(path)
            try:
                connection.execute("BEGIN IMMEDIATE")
                migrate(connection, path)
                connection.execute("COMMIT")
            finally:
                connection.close()
    finally:
        gate.close()


async def publish(
    session: AsyncSession,
    event: object,
    *,
    service: str,
    cause: Envelope | None = None,
    traceparent: str | None = None,
    max_payload: int = MAX_PAYLOAD,
) -> str:
    """Publish *event* as *service* when the session's transaction commits; returns its id.

    *cause* is the event that this one follows from. Raises InvalidEvent with the field and the reason (the
    session is unharmed), DeclarationError for what is no event or an engine that is not prepared,
    StoreError if the file has no tables of Antiphon.
    """
    return await session.run_sync(
        publish_sync, event, service=service, cause=cause, traceparent=traceparent, max_payload=max_payload
    )


def publish_sync(
    session: Session,
    event: object,
    *,
    service: str,
    cause: Envelope | None = None,
    traceparent: str | None = None,
    max_payload: int = MAX_PAYLOAD,
) -> str:
    """`publish` for a blocking session."""
    check_name(service, "a service", place(caller()))
    publisher = Publisher(service, _clock, None, service, max_payload)
    with _one_at_a_time:
        envelope, event_type = publisher.envelope(event, cause, traceparent)
    connection = session.connection()
    info = connection.info
    outbox = info.get(_PREPARED)
    if outbox is None:
        raise DeclarationError(
            "the session's engine is not prepared", where=str(connection.engine.url), mend="Call prepare(engine) first"
        )
    if connection.get_execution_options().get(_READ_ONLY):
        raise DeclarationError("the session is bound to read_only(engine)", where=event_type.name)
    row = log_row(envelope, INTERNAL if event_type.domain else PUBLISHED)
    if not isinstance(outbox, _Line):
        outbox.keep(connection, row)
        return envelope.id
    row = (*row, bucket_of(envelope.key, envelope.id))
    try:
        connection.exec_driver_sql(query("append"), row)
    except OperationalError as error:
        if "no such table: antiphon_log" not in str(error.orig):
            raise
        raise StoreError(
            "the file has no tables of Antiphon",
            where=str(connection.engine.url.database),
            mend="Start the app once on this file, or call ensure_tables(engine)",
        ) from error
    info[_PUBLISHED] = True
    return envelope.id


class _Line:
    """Where the transactions of one engine wait for the gate of its file.

    They wait in a thread of their own, one after the other: in the loop's pool they could take all
    the threads, and the one whose commit needs a thread would never leave the gate.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.folder = host_folder(path)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="antiphon-gate")

    def join(self, dbapi_connection: Any, record: Any) -> None:
        """Give a new connection its line (an event listener)."""
        record.info[_PREPARED] = self

    def gate(self) -> Gate:
        """A gate for one connection."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.folder.mkdir(mode=0o700, exist_ok=True)
            return Gate(self.folder, _clock)
        except OSError as error:
            raise StoreError(
                f"the folder cannot be used ({error.strerror})", where=str(self.path), mend="Check path and permissions"
            ) from error

    def enter(self, gate: Gate) -> Future[None] | None:
        """Take the gate, or stand in line for it; None when it is taken already."""
        return None if gate.acquire_nowait() else self._thread.submit(gate.acquire_blocking)

    def wait(self, turn: Future[None] | None) -> None:
        """Block until it is our turn."""
        if turn is not None:
            turn.result(WAIT_S)

    async def wait_async(self, turn: Future[None]) -> None:
        """Wait until it is our turn."""
        await asyncio.wait_for(asyncio.shield(asyncio.wrap_future(turn)), WAIT_S)


def _file_of(engine: Engine) -> Path:
    """The engine's database file. Raises DeclarationError."""
    name = engine.url.database
    if engine.dialect.name != "sqlite" or not name or name == ":memory:" or name.startswith("file:"):
        raise DeclarationError(
            "it is not the path of a SQLite file", where=str(engine.url), mend="Use sqlite+aiosqlite:///path/to/app.db"
        )
    return Path(name).absolute()


# --- listeners -------------------------------------------------------------------------------------------


def _configure(dbapi_connection: Any, record: Any) -> None:
    """The settings of Antiphon's own connections; BEGIN and COMMIT are ours to say, not the driver's."""
    dbapi_connection.isolation_level = None
    cursor = dbapi_connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout = {WAIT_S * 1000}")
    cursor.execute("PRAGMA journal_mode = WAL")
    cursor.execute("PRAGMA synchronous = FULL")
    cursor.execute("PRAGMA foreign_keys = ON")
    if has_wal_reset_race():
        # Checkpoints are one duty's work there, the runtime's.
        cursor.execute("PRAGMA wal_autocheckpoint = 0")
    cursor.close()


def _begin(connection: Connection) -> None:
    """A deferred transaction could not become a writing one later: SQLite refuses that at once."""
    if connection.get_execution_options().get(_READ_ONLY):
        connection.exec_driver_sql("PRAGMA query_only = ON")
        connection.info[_QUERY_ONLY] = True
        connection.exec_driver_sql("BEGIN")
        return
    _enter(connection)
    try:
        if connection.info.pop(_QUERY_ONLY, False):
            connection.exec_driver_sql("PRAGMA query_only = OFF")
        connection.exec_driver_sql("BEGIN IMMEDIATE")
    except BaseException:
        _leave(None, connection)
        raise


def _commit(connection: Connection) -> None:
    published = connection.info.pop(_PUBLISHED, False)
    line: _Line = connection.info[_PREPARED]
    try:
        _end(connection, "COMMIT")
    finally:
        _leave(None, connection)
    if published:
        ring(line.folder)


def _rollback(connection: Connection) -> None:
    if connection.invalidated:
        return
    connection.info.pop(_PUBLISHED, None)
    try:
        _end(connection, "ROLLBACK")
    finally:
        _leave(None, connection)


def _end(connection: Connection, how: str) -> None:
    driver: Any = connection.connection.driver_connection
    if driver.in_transaction:  # SQLite may have rolled back by itself: disk full, an I/O error
        connection.exec_driver_sql(how)


def _enter(connection: Connection) -> None:
    """Wait for the gate; on the loop of an async engine, without blocking it."""
    line: _Line = connection.info[_PREPARED]
    gate = connection.info.get(_GATE)
    if gate is None:
        gate = connection.info[_GATE] = line.gate()
    turn = line.enter(gate)
    if turn is None:
        return
    try:
        if connection.dialect.is_async:
            connection.connection.dbapi_connection.run_async(lambda _: line.wait_async(turn))  # type: ignore[union-attr]
        else:
            line.wait(turn)
    except BaseException as error:
        # The thread cannot be called back: whatever it still gets, it hands back.
        del connection.info[_GATE]
        turn.cancel()
        turn.add_done_callback(lambda _: gate.close())
        if isinstance(error, TimeoutError):
            raise StoreLocked(
                f"another transaction did not end within {WAIT_S} s",
                where=str(line.path),
                mend="End it; on the event loop's thread use an AsyncSession, a blocking one stops the loop",
            ) from error
        raise


def _leave(_: Any, holder: Any) -> None:
    """Give the gate back, whether it was held or not."""
    gate = holder.info.get(_GATE)
    if gate is not None:
        gate.release()


def _part(_: Any, record: Any) -> None:
    """The connection closes, and its gate with it."""
    gate = record.info.pop(_GATE, None)
    if gate is not None:
        gate.close()
