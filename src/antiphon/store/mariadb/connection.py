"""Connecting to MariaDB: addresses, sessions with their settings, and MariaDB's errors in our words."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from ssl import CERT_NONE, SSLContext, create_default_context
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec
from asyncmy.connection import Connection, MySQLResult
from asyncmy.constants import CLIENT
from asyncmy.constants.COMMAND import COM_STMT_EXECUTE
from asyncmy.errors import Error, InterfaceError
from asyncmy.protocol import pack_binary_params

from antiphon.errors import DeclarationError, StoreCorrupt, StoreError, StoreFull, StoreLocked
from antiphon.store.mariadb.statements import Statement, understood
from antiphon.store.rows import parts_of

#: MariaDB 10.6 is the first whose changes of tables are atomic, and that has JSON_TABLE.
OLDEST = (10, 6)
DUPLICATE, NO_DATABASE = 1062, 1049
_NO_RIGHTS, _UNREACHABLE = 1044, 2003
# The client's own errors: nothing more is read from that connection.
_BROKEN = range(2000, 2070)
#: Statements that a session keeps prepared. The server has room for 16,382 of all its sessions, if nobody says more.
_PREPARED = 64
_CONNECT_S = 10
_IN_TRANSACTION = 1
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.\-]{0,63}")
_OPTIONS = ("ssl", "ssl_ca", "ssl_cert", "ssl_key", "unix_socket")

#: For so long a transaction may stand still. Who dies amid one without a word, as by a power cut of its machine, keeps
#: its locks no longer.
IDLE_S = 300
# Standard words (" quotes names, || joins texts, SET looks at the old row), no value is cut to fit, all that a
# statement sees is committed and of one moment.
_SETTINGS = (
    "SET SESSION sql_mode = 'ANSI_QUOTES,PIPES_AS_CONCAT,STRICT_ALL_TABLES,ERROR_FOR_DIVISION_BY_ZERO,"
    "NO_ENGINE_SUBSTITUTION,SIMULTANEOUS_ASSIGNMENT', SESSION default_storage_engine = InnoDB,"
    " NAMES utf8mb4 COLLATE utf8mb4_nopad_bin, SESSION time_zone = '+00:00',"
    f" SESSION idle_transaction_timeout = {IDLE_S}, SESSION innodb_lock_wait_timeout = 30"
)
#: For how long a transaction may stand still from now on.
IDLE = understood("SET SESSION idle_transaction_timeout = ?")
_ISOLATION = "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED"


class Address(msgspec.Struct, frozen=True):
    """A database of a server. *database* is the store's own: that of the URL, ``_`` and the store's *name*."""

    name: str
    database: str
    host: str
    port: int = 3306
    user: str | None = None
    password: str = ""
    unix_socket: str | None = None
    ssl: str | None = None
    ssl_ca: str | None = None
    ssl_cert: str | None = None
    ssl_key: str | None = None

    @property
    def shown(self) -> str:
        """Without its password."""
        user = f"{self.user}@" if self.user else ""
        return f"mariadb://{user}{self.unix_socket or f'{self.host}:{self.port}'}/{self.database}"

    def tls(self) -> SSLContext | None:
        """How to encrypt; None: not at all. Raises StoreError."""
        if self.ssl is None:
            return None
        try:
            context = create_default_context(cafile=self.ssl_ca)
            if self.ssl_cert is not None:
                context.load_cert_chain(self.ssl_cert, self.ssl_key)
        except OSError as error:
            mend = "ssl_ca=, ssl_cert= and ssl_key= name PEM files"
            raise StoreError(f"its certificates cannot be read ({error})", where=self.shown, mend=mend) from error
        if self.ssl == "required":
            context.check_hostname, context.verify_mode = False, CERT_NONE
        return context


def prefix_of(url: str) -> str:
    """What the names of the databases at *url* begin with."""
    return address(url, "x").database.removesuffix("x")


def address(url: str, name: str) -> Address:
    """The address of the store *name* at *url*: ``mariadb://user:password@host:port/database``.

    Its database is ``database_name``. Options: ``ssl=verify`` (or ``required``: encrypt, whoever it is), ``ssl_ca``,
    ``ssl_cert``, ``ssl_key``, ``unix_socket``. Raises DeclarationError.
    """
    parts = urlsplit(url)
    try:
        port = parts.port or 3306
    except ValueError:
        mend = "In a password / ? # @ : are written %2F %3F %23 %40 %3A"
        raise DeclarationError("its port is no number", where="the store's address", mend=mend) from None
    if parts.scheme not in ("mariadb", "mysql"):
        raise DeclarationError(f"{parts.scheme}:// is no address of MariaDB", mend="mariadb://user@host/database")
    options = dict(parse_qsl(parts.query))
    if unknown := sorted(set(options) - set(_OPTIONS)):
        known = ", ".join(_OPTIONS)
        raise DeclarationError(f"{unknown[0]}= is not known", where="the store's address", mend=f"There is {known}")
    if options.get("ssl", "verify") not in ("verify", "required"):
        raise DeclarationError("ssl= is verify or required", where="the store's address")
    if not parts.path.strip("/"):
        raise DeclarationError("it names no database", where="the store's address", mend="mariadb://user@host/database")
    database = f"{unquote(parts.path.strip('/'))}_{name}"
    if not _NAME.fullmatch(database) or database.startswith("_"):
        raise DeclarationError(
            f"{database!r} is no name for a database", where="the store's address", mend="mariadb://user@host/database"
        )
    return Address(
        name,
        database,
        parts.hostname or "localhost",
        port,
        unquote(parts.username) if parts.username else None,
        unquote(parts.password or ""),
        **options,
    )


class Result(msgspec.Struct):
    """What a statement has come to. *columns*: the names of a query's."""

    rows: Sequence[tuple[Any, ...]]
    affected: int
    insert_id: int
    columns: tuple[str, ...]


class Session:
    """One connection, and the statements that it has prepared: parameters never become part of a statement's text.

    All but `close` raise asyncmy's errors.
    """

    def __init__(self, connection: Any, where: Address, largest: int) -> None:
        self._connection = connection
        self._prepared: OrderedDict[str, Any] = OrderedDict()
        self.where = where
        #: Where it notes its last transaction, for whom, and the number of that.
        self.slot, self.owner, self.nr = "", "", 0
        #: For how long its transactions may stand still, in seconds; None if that is not known.
        self.idle_s: int | None = IDLE_S
        #: The most bytes that the server takes in one statement.
        self.largest = largest

    @property
    def number(self) -> int:
        """What the server calls it."""
        return int(self._connection.thread_id())

    @property
    def closed(self) -> bool:
        """Whether nothing can be said any more."""
        return not self._connection.connected or self._connection._stream_broken

    @property
    def in_transaction(self) -> bool:
        """Whether the server has a transaction open, as of the last answer."""
        return bool(self._connection.server_status & _IN_TRANSACTION)

    async def run(self, statement: Statement, parameters: Sequence[Any] = ()) -> Result:
        """Run one statement."""
        await self._forget_some()
        prepared = await self._prepare(statement.text)
        return _result(await prepared.execute(statement.bound(parameters)))

    async def run_together(self, statements: Sequence[tuple[Statement, Sequence[Any]]]) -> list[Result | Error]:
        """Run statements one after the other, sent in one go; what each has come to, its error too: those behind one
        that fails are run all the same."""
        await self._forget_some()
        prepared = [await self._prepare(statement.text) for statement, _ in statements]
        connection = self._connection
        for each, (statement, parameters) in zip(prepared, statements, strict=True):
            bound = statement.bound(parameters)
            values = pack_binary_params(bound, "utf8") if bound else b""
            await connection._execute_command(COM_STMT_EXECUTE, each._execute_header + values)
        found: list[Result | Error] = []
        for each in prepared:
            connection._next_seq_id = 1  # each answer counts its packets anew
            answer: Any = MySQLResult(connection)
            try:
                await answer.read_binary(each)
            except Error as error:
                if connection._stream_broken or error.args[0] in _BROKEN:
                    raise
                found.append(error)
            else:
                connection.server_status = answer.server_status or connection.server_status
                found.append(_result(answer))
        return found

    async def run_many(self, text: str, rows: Sequence[tuple[Any, ...]]) -> int:
        """Run one statement for each of *rows*, in as few messages as may be; returns the rows changed."""
        await self._forget_some()
        prepared = await self._prepare(text)
        changed = 0
        for part in parts_of(rows, self.largest // 2):
            try:
                changed += int((await prepared.execute_bulk(part)).affected_rows)
            except ValueError:  # a column without any value, or with values of two types: it has sent nothing
                for row in part:
                    changed += int((await prepared.execute(row)).affected_rows)
        return changed

    async def ask(self, sql: str, *parameters: Any) -> Sequence[tuple[Any, ...]]:
        """The rows of a statement in the words of `understood`."""
        return (await self.run(understood(sql), parameters)).rows

    async def say(self, text: str) -> None:
        """Run what has no parameters, and changes often or is no statement of its own to prepare."""
        await self._connection.query(text)
        while self._connection._result is not None and self._connection._result.has_next:
            await self._connection.next_result()

    async def _prepare(self, text: str) -> Any:
        prepared = self._prepared.get(text)
        if prepared is not None:
            self._prepared.move_to_end(text)
            return prepared
        prepared = await self._connection.prepare(text)
        self._prepared[text] = prepared
        return prepared

    async def _forget_some(self) -> None:
        """Keep no more statements than there is room for: none that is about to be sent is among the others."""
        while len(self._prepared) > _PREPARED:
            await self._prepared.popitem(last=False)[1].close()

    async def close(self) -> None:
        """Say good-bye if that can be said. Idempotent."""
        try:
            await self._connection.ensure_closed()
        except (Error, OSError):
            self._connection.close()


def _result(found: Any) -> Result:
    columns = tuple(column[0] for column in found.description) if found.description else ()
    return Result(found.rows or (), int(found.affected_rows), int(found.insert_id), columns)


async def connect(where: Address, *, autocommit: bool = True, database: bool = True) -> Session:
    """A session. Without *autocommit* its first statement begins a transaction. Raises StoreError."""
    make: Any = Connection  # it says too little of its types
    connection = make(
        host=where.host,
        port=where.port,
        user=where.user,
        password=where.password,
        unix_socket=where.unix_socket,
        database=where.database if database else None,
        ssl=where.tls(),
        client_flag=CLIENT.FOUND_ROWS,  # an UPDATE counts what it has found, also what was so already
        connect_timeout=_CONNECT_S,
        program_name="antiphon",
        autocommit=True,
    )
    with translated(where):
        await connection.connect()
        session = Session(connection, where, 0)
        try:
            await _check(session, connection.server_version)
            await session.say(_ISOLATION)
            await session.say(f"{_SETTINGS}, SESSION autocommit = {int(autocommit)}")
            session.largest = int((await session.ask("SELECT @@max_allowed_packet"))[0][0])
        except BaseException:
            connection.close()
            raise
    return session


async def _check(session: Session, version: str) -> None:
    """Raise StoreError for a server of another make, or too old."""
    numbers = re.search(r"(\d+)\.(\d+)\.\d+-MariaDB", version)
    if numbers is None:
        raise StoreError(
            f"the server is no MariaDB ({version})",
            where=session.where.shown,
            mend="Use MariaDB 10.6 or newer, PostgreSQL or SQLite: nothing is promised, nor tried, on MySQL itself",
        )
    if (int(numbers[1]), int(numbers[2])) < OLDEST:
        raise StoreError(
            f"the server is too old ({version})", where=session.where.shown, mend="Use MariaDB 10.6 or newer"
        )


_LOCKED = frozenset((1020, 1205, 1213, 3572))
_FULL = frozenset((1021, 1041, 1114))
_CORRUPT = frozenset((126, 127, 145, 1034, 1035, 1194, 1195, 1712, 1932))
_RIGHTS = frozenset((1044, 1045, 1049, 1142, 1143, 1227, 1370, 1698))
_GONE = frozenset(
    (
        *(1040, 1042, 1043, 1047, 1053, 1077, 1079, 1080, 1081, 1129, 1130, 1152, *range(1154, 1162), 1180, 1184, 1203),
        *(1226, 1290, 1317, 1461, 1792, 1836, 1927, 1969, 4031, *range(2000, 2070)),
    )
)


def store_error(error: Error, where: Address) -> StoreError | None:
    """The StoreError that *error* stands for; None if the statement itself is at fault."""
    number = error.args[0] if error.args and isinstance(error.args[0], int) else 0
    shown, text = where.shown, str(error.args[1] if len(error.args) > 1 else error).partition("\n")[0]
    if number in _LOCKED:
        return StoreLocked(f"another transaction was in the way ({text})", where=shown, mend="The work is tried again")
    if number in _FULL or "errno: 28" in text or "error 28" in text:
        return StoreFull("the server's disk is full", where=shown, mend="Free some space; nothing was kept")
    if number in _CORRUPT:
        return StoreCorrupt(f"the server cannot read its data ({text})", where=shown, mend="Look at the server's log")
    if number == _NO_RIGHTS:
        mend = f"GRANT ALL ON `{where.database}`.* to this user"
        return StoreError(text, where=shown, mend=mend)
    if number in _RIGHTS:
        return StoreError(text, where=shown, mend="Check database, user, password and rights")
    if number == _UNREACHABLE:
        return StoreError(text, where=shown, mend="Check that the server is there, and the URL: host, port, ssl")
    if number == 1153:
        return StoreError(text, where=shown, mend="Raise the server's max_allowed_packet; the work is tried again")
    if number in _GONE or isinstance(error, InterfaceError):
        return StoreError(
            text or "the connection is gone", where=shown, mend="It is tried again when the server answers"
        )
    return None


@contextmanager
def translated(where: Address) -> Iterator[None]:
    """Raise our StoreError for what is the database's fault; leave the statement's own errors alone."""
    try:
        yield
    except Error as error:
        ours = store_error(error, where)
        if ours is None:
            raise
        raise ours from error
    except (OSError, TimeoutError) as error:
        raise StoreError(f"no connection ({error})", where=where.shown, mend="Is the server there?") from error
