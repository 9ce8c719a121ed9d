"""Connecting to PostgreSQL: addresses, settings, and PostgreSQL's errors in our words."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

import msgspec
import psycopg
from psycopg import AsyncConnection, AsyncRawCursor, conninfo, sql

from antiphon.errors import DeclarationError, StoreCorrupt, StoreError, StoreFull, StoreLocked

#: PostgreSQL 13 is the first that tells what has become of a transaction by an id that never comes again.
OLDEST = 130_000
_NAME = re.compile(r"[a-z_][a-z0-9_.\-]{0,62}")
_SERVER = re.compile(r"([^:]*|\[.*\])(:[0-9]{0,5})?")
_PLACE = "the store's address"
_ESCAPE = "In a password / ? # @ : are written %2F %3F %23 %40 %3A"
#: What libpq is told unless the address says otherwise: a server whose machine has gone is missed within half a minute,
#: and not after the hours of the system's default.
_PATIENCE = {
    "connect_timeout": 10,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 25_000,
}
_WRONG = "Check that the server is there, and the URL: host, port, database, user, password, options"


class Address(msgspec.Struct, frozen=True):
    """A schema of a database: that of the store *name*, which a prefix may stand before. *pooled*: a pooler in
    transaction mode stands in between, so that a session keeps nothing; *direct* is then where the one connection goes
    that listens."""

    url: str
    schema: str
    name: str
    pooled: bool = False
    direct: str | None = None

    @property
    def shown(self) -> str:
        """Without its password."""
        parts = urlsplit(self.url)
        host = parts.netloc.rpartition("@")
        user = host[0].partition(":")[0]
        return urlunsplit(parts._replace(netloc=f"{user}@{host[2]}" if user else host[2], query="")) + f"#{self.schema}"


def address(url: str, name: str) -> Address:
    """The address of the store *name* in the database at *url*: ``postgresql://user:password@host:port/database``.

    Of its options, ``pooler=transaction`` says that PgBouncer or its like stands in between, ``direct=`` gives the
    host and port behind it, ``schema=`` a prefix of the schemas' names; the others are libpq's.
    Raises DeclarationError.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("postgresql", "postgres"):
        raise DeclarationError(f"{parts.scheme}:// is no address of PostgreSQL", mend="postgresql://user@host/database")
    options = dict(parse_qsl(parts.query))
    pooler, direct = options.pop("pooler", ""), options.pop("direct", None)
    schema = options.pop("schema", "") + name
    if pooler not in ("", "transaction"):
        raise DeclarationError(f"pooler={pooler} is not known", where=_PLACE, mend="There is pooler=transaction")
    if not _NAME.fullmatch(schema):
        mend = "schema= begins with a lower-case letter; letters, digits, _, . and - may follow"
        raise DeclarationError(f"{schema!r} is no name for a schema", where=_PLACE, mend=mend)
    # What follows may hold a part of the password, if that was not escaped: it is not shown.
    if "@" in f"{parts.path}{parts.fragment}" or not all(map(_SERVER.fullmatch, _servers(parts.netloc))):
        raise DeclarationError("its host or port is none", where=_PLACE, mend=_ESCAPE)
    more = f"{parts.path}?{urlencode(options, quote_via=quote)}".removesuffix("?")
    whole = f"postgresql://{parts.netloc}{more}"
    try:
        conninfo.conninfo_to_dict(whole)
    except psycopg.ProgrammingError as error:
        what = "it cannot be read" if "@" in parts.query or "%40" in parts.query else str(error).strip()
        mend = f"There are schema=, pooler=, direct=, and the options of libpq, such as sslmode=. {_ESCAPE}"
        raise DeclarationError(what, where=_PLACE, mend=mend) from error
    behind = None
    if direct is not None:
        login = parts.netloc.rpartition("@")[0]
        behind = f"postgresql://{login}{'@' if login else ''}{direct}{more}"
    return Address(whole, schema, name, bool(pooler), behind)


def _servers(netloc: str) -> list[str]:
    return netloc.rpartition("@")[2].split(",")


async def connect(where: Address, *, listens: bool = False) -> AsyncConnection:
    """A connection, in autocommit: transactions are begun and ended in words. Raises StoreError."""
    url = where.direct if listens and where.direct else where.url
    # A pooler gives each transaction another session: there it is the role's own search path that holds.
    options = None if where.pooled and url is where.url else f"-c search_path={_quoted(where.schema)}"
    with translated(where):
        connection = await AsyncConnection.connect(
            url,
            autocommit=True,
            cursor_factory=AsyncRawCursor,
            prepare_threshold=None if where.pooled else 5,
            options=options,
            **patience(url),
        )
    if connection.info.server_version < OLDEST:
        version = connection.info.parameter_status("server_version")
        await connection.close()
        raise StoreError(f"the server is too old ({version})", where=where.shown, mend="Use PostgreSQL 13 or newer")
    return connection


def patience(url: str) -> dict[str, Any]:
    """The time-outs that *url* leaves to us, by libpq's names."""
    given = conninfo.conninfo_to_dict(url)
    return {name: value for name, value in _PATIENCE.items() if name not in given}


def _quoted(name: str) -> str:
    return sql.Identifier(name).as_string(None).replace(" ", "\\ ")


def is_outdated(error: BaseException | None) -> bool:
    """Whether a connection has prepared a statement for a table that has other columns by now, and so cannot run it:
    another process has brought new code, and has changed a table."""
    # Its text depends on the server's language; its state also stands for what PostgreSQL cannot do at all.
    return isinstance(error, psycopg.Error) and error.diag.source_function == "RevalidateCachedQuery"


def store_error(error: psycopg.Error, where: Address) -> StoreError | None:
    """The StoreError that *error* stands for; None if the statement itself is at fault."""
    state = error.sqlstate or ""
    shown, text = where.shown, str(error).strip().partition("\n")[0]
    if is_outdated(error):
        return StoreError(f"a table was changed meanwhile ({text})", where=shown, mend="The work is tried again")
    if state in ("40001", "40P01", "55P03"):
        return StoreLocked(f"another transaction was in the way ({text})", where=shown, mend="The work is tried again")
    if state == "53100":
        return StoreFull("the server's disk is full", where=shown, mend="Free some space; nothing was kept")
    if state[:2] == "XX" or state in ("58030", "57P04"):
        return StoreCorrupt(f"the server cannot read its data ({text})", where=shown, mend="Look at the server's log")
    if state in ("3D000", "28P01", "28000", "42501"):
        return StoreError(text, where=shown, mend="Check database, user, password and rights")
    if state[:2] in ("08", "57", "53", "25"):
        return StoreError(text, where=shown, mend="The work is tried again when the server answers")
    if isinstance(error, psycopg.OperationalError | psycopg.InterfaceError) and not state:
        return StoreError(text or "the connection is gone", where=shown, mend=_WRONG)
    return None


@contextmanager
def translated(where: Address) -> Iterator[None]:
    """Raise our StoreError for what is the database's fault; leave the statement's own errors alone."""
    try:
        yield
    except psycopg.Error as error:
        ours = store_error(error, where)
        if ours is None:
            raise
        raise ours from error
