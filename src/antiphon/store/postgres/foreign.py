"""Publishing in transactions of an existing application's own SQLAlchemy engine on PostgreSQL, whatever its driver.

What is published is kept until the transaction commits. Then, as the last thing before the COMMIT, the log's lock is
taken and the events are inserted, so that they become visible in the order of their positions, as the store's own
units do it (`store.postgres.unit`).
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from weakref import ref

from sqlalchemy import Connection, Engine, bindparam, event, text
from sqlalchemy.dialects.postgresql import BIGINT, BYTEA, INTEGER, SMALLINT, TEXT
from sqlalchemy.sql.elements import TextClause
from sqlalchemy.types import TypeEngine

from antiphon.errors import DeclarationError, StoreError
from antiphon.store.postgres.connection import Address, address, connect, translated
from antiphon.store.postgres.listener import channel_of, number_of
from antiphon.store.postgres.migrations import migrate

_COLUMNS: dict[str, type[TypeEngine[Any]]] = {
    "id": TEXT,
    "type": TEXT,
    "version": INTEGER,
    "key": TEXT,
    "service": TEXT,
    "time_ms": BIGINT,
    "correlation_id": TEXT,
    "causation_id": TEXT,
    "traceparent": TEXT,
    "target": TEXT,
    "request_id": TEXT,
    "deadline_ms": BIGINT,
    "origin": SMALLINT,
    "data": BYTEA,
}
#: Under which a connection knows where its transactions publish.
PREPARED = "antiphon_prepared"
_KEPT = "antiphon_kept"
_COUNTED = "antiphon_counted"


class Outbox:
    """The log of one schema, for the transactions of one engine."""

    def __init__(self, schema: str) -> None:
        address("postgresql://", schema)  # raises DeclarationError for what is no name
        self.schema = schema
        self.found = False
        self._lock = number_of("log", schema)
        names = ", ".join(_COLUMNS)
        marks = ", ".join(f":{name}" for name in _COLUMNS)
        log = f'"{schema}".antiphon_log'
        insert = f"INSERT INTO {log} ({names}) VALUES ({marks}) ON CONFLICT (id) DO NOTHING"  # noqa: S608  own names
        self._insert = _typed(insert, **_COLUMNS)
        # As in the block lock_log: who stands still there loses the lock.
        self._take = _typed(
            "SELECT set_config('idle_in_transaction_session_timeout', '15s', true), pg_advisory_xact_lock(:lock)",
            lock=BIGINT,
        )
        self._ring = _typed("SELECT pg_notify(:channel, :owner)", channel=TEXT, owner=TEXT)
        self._look = _typed("SELECT to_regclass(:name) IS NOT NULL", name=TEXT)

    def attach(self, engine: Engine) -> None:
        """Have the engine's transactions publish."""
        event.listen(engine, "connect", self._join)
        event.listen(engine, "begin", _forget)
        event.listen(engine, "rollback", _forget)
        event.listen(engine, "savepoint", _mark)
        event.listen(engine, "rollback_savepoint", _back_to_mark)
        event.listen(engine, "commit", self._flush)
        event.listen(engine, "prepare_twophase", _refuse)

    def _join(self, dbapi_connection: Any, record: Any) -> None:
        record.info[PREPARED] = self

    def keep(self, connection: Connection, row: tuple[Any, ...]) -> None:
        """Publish an event (a row of the log) when the transaction commits. Raises StoreError if there is no log, and
        DeclarationError where each statement commits by itself."""
        if connection.dialect.detect_autocommit_setting(connection.connection.dbapi_connection):  # type: ignore[arg-type]
            raise DeclarationError(
                "each statement of the session commits by itself",
                mend="Publish where the isolation level is not AUTOCOMMIT",
            )
        if not self.found:
            name = f'"{self.schema}".antiphon_log'
            self.found = bool(connection.execute(self._look, {"name": name}).scalar())
        if not self.found:
            raise StoreError(
                f"the database has no schema {self.schema!r} with tables of Antiphon",
                where=connection.engine.url.render_as_string(),
                mend="Start the app once on this database, or call ensure_tables(engine)",
            )
        kept = connection.info.setdefault(_KEPT, ([], {}))
        kept[0].append(dict(zip(_COLUMNS, row, strict=True)))

    def _flush(self, connection: Connection) -> None:
        rows, _ = connection.info.pop(_KEPT, ((), None))
        if rows:
            connection.execute(self._take, {"lock": self._lock})
            connection.execute(self._insert, rows)
            # Delivered with the commit, to be heard by every process.
            connection.execute(self._ring, {"channel": channel_of(self.schema), "owner": ""})


def make_tables(engine: Engine, schema: str) -> None:
    """Make Antiphon's tables in *schema*, as the app's first start would. Raises StoreError."""
    url = engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
    where = address(url, schema)
    with ThreadPoolExecutor(1) as thread:  # the caller's may have a loop that runs
        thread.submit(asyncio.run, _migrate(where)).result()


async def _migrate(where: Address) -> None:
    connection = await connect(where)
    try:
        with translated(where):
            await migrate(connection, where, {})
    finally:
        await connection.close()


def _typed(sql: str, **types: type[TypeEngine[Any]]) -> TextClause:
    return text(sql).bindparams(*(bindparam(name, type_=each) for name, each in types.items()))


# --- listeners -------------------------------------------------------------------------------------------


def _forget(connection: Connection) -> None:
    """Nothing is published in the transaction that begins, or of one that is undone."""
    if not connection.invalidated:
        connection.info.pop(_KEPT, None)


def _mark(connection: Connection, name: str | None) -> None:
    if name is None:  # SQLAlchemy counts the savepoints of a Connection, and tells the name afterwards
        before, count = connection.info.get(_COUNTED, (None, 0))
        count = count + 1 if before is not None and before() is connection else 1
        connection.info[_COUNTED] = (ref(connection), count)
        name = f"sa_savepoint_{count}"
    rows, marks = connection.info.setdefault(_KEPT, ([], {}))
    marks[name] = len(rows)


def _back_to_mark(connection: Connection, name: str, context: None) -> None:
    if connection.invalidated:
        return
    rows, marks = connection.info.setdefault(_KEPT, ([], {}))
    if rows and name not in marks:
        raise StoreError(f"what was published in the savepoint {name} cannot be told from the rest")
    del rows[marks.get(name, 0) :]


def _refuse(connection: Connection, xid: Any) -> None:
    """A prepared transaction becomes visible when it likes to."""
    if connection.info.get(_KEPT, ((),))[0]:
        raise DeclarationError("events cannot be published in a two-phase transaction")
