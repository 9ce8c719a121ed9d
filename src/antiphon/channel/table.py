"""Tables of a foreign database, polled: each row that is added is an event. Nothing is ever written there.

A place is a table or a view. It is read in the order of a *column* that grows: a number that is given out, a time.
Whoever takes a number first may commit last, so a row may appear below others that were read long before: the rows
from the last *late* on are read again and again, and those that are new among them are taken. A row is known by the
column, or by it and *key*, where several rows may have the same value; a row that changes after it was read is another
event where the column changes with it, and else none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import msgspec

from antiphon.broker.naming import shown
from antiphon.channel.tables import READERS, Reader
from antiphon.errors import BusError
from antiphon.model.channels import ChannelSpec, Message
from antiphon.model.retry import milliseconds
from antiphon.ports import Clock

#: So many rows are read at a time.
_PAGE = 500
_KINDS: dict[str, type] = {
    each.__name__: each for each in (bool, int, float, str, bytes, datetime, date, time, timedelta, Decimal, UUID)
}

#: Where a row stands: its column, and its key if there is one.
Place = tuple[Any, ...]


class _Table:
    """How far one table has been read."""

    def __init__(self, name: str, low: Place | None) -> None:
        self.name = name
        #: Below lies nothing that is not taken, and nothing will.
        self.low = low
        #: How far this round has come.
        self.scan = low
        #: What lies above *low* and was read, with when first; and what this round has found there, in its order, with
        #: when.
        self.seen: dict[Place, int] = {}
        self.round: list[tuple[Place, int]] = []
        self.noted = low
        #: When this round is over, the next one begins at this time.
        self.rests_until = 0


class ChannelSource:
    """Polls tables (``ports.Source``)."""

    def __init__(self, channel: ChannelSpec, clock: Clock) -> None:
        options = channel.options
        self._channel = channel
        self._clock = clock
        self._where = shown(channel.url)
        url = channel.url.removeprefix("table+")
        self._reader: Reader = READERS[url.partition("://")[0]](url, self._where, clock)
        self._columns: list[str] = [options.get("column", "id"), *([options["key"]] if "key" in options else [])]
        self._condition: str = options.get("where", "")
        self._every_ms = milliseconds(options.get("every", timedelta(seconds=1)))
        self._late_ms = milliseconds(options.get("late", timedelta(seconds=10)))

    async def open(self, notes: Mapping[str, str]) -> None:
        """Connect. Raises BusError."""
        self._tables = [_Table(name, _place(notes.get(name))) for name in self._channel.inbound]
        await self._reader.open()

    async def receive(self, limit: int) -> Sequence[Message]:
        """Rows that have not been taken yet; none when there are none for a while. Raises BusError."""
        for table in self._tables:
            if table.rests_until <= self._clock.boot_ms():
                return await self._page(table)
        rest = min(table.rests_until for table in self._tables) - self._clock.boot_ms()
        await self._clock.sleep(max(0, rest) / 1000)
        return ()

    async def acknowledge(self, messages: Sequence[Message]) -> None:
        """Nothing: the notes tell."""

    async def close(self) -> None:
        """Disconnect. Idempotent."""
        await self._reader.close()

    # ------------------------------------------------------------------ inside

    async def _page(self, table: _Table) -> list[Message]:
        """The next rows of this round, those that are new."""
        asked = self._clock.boot_ms()
        rows = await self._reader.rows(*self._select(table))
        now = self._clock.boot_ms()
        fresh: list[tuple[Place, dict[str, Any]]] = []
        start = table.scan
        for row in rows:
            place = tuple(row[column] for column in self._columns)
            if place == start:
                start = None  # read again, to see that there is but one of it
                continue
            self._check(table, place)
            table.scan = place
            table.round.append((place, asked))
            if place not in table.seen:
                table.seen[place] = now
                fresh.append((place, row))
        if len(rows) < _PAGE:
            table.rests_until = now + self._every_ms
            self._settle(table)
        messages = [self._message(table, place, row) for place, row in fresh]
        if table.low != table.noted and table.low is not None:
            messages.append(Message(topic=table.name, body=b"", note=(table.name, _text(table.low)), is_mark=True))
            table.noted = table.low
        return messages

    def _check(self, table: _Table, place: Place) -> None:
        """Raise BusError for a row that cannot be told from others."""
        if None in place:
            raise BusError(f"a row has no {' and '.join(self._columns)}", where=f"{self._where} {table.name}")
        if unknown := {type(each).__name__ for each in place} - _KINDS.keys():
            raise BusError(f"{min(unknown)} is no place to go on from", where=f"{self._where} {table.name}")
        if place == table.scan:
            raise BusError(
                f"several rows of {table.name} have {', '.join(self._columns)} = {', '.join(map(str, place))}",
                where=self._where,
                mend='Name a column that tells them apart: options={"key": ...}',
            )

    def _settle(self, table: _Table) -> None:
        """Raise what lies below to where the rows end that were there long ago when this round came by: what came late
        below them, it has read. The next round begins there."""
        above = len(table.round)
        for index, (place, read_ms) in enumerate(table.round):
            if max(0, read_ms - table.seen[place]) < self._late_ms:
                above = index
                break
            table.low = place
        table.seen = {place: table.seen[place] for place, _ in table.round[above:]}
        table.round = []
        table.scan = table.low

    def _select(self, table: _Table) -> tuple[str, list[Any]]:
        quote, mark = self._reader.quote, self._reader.mark
        name = ".".join(f"{quote}{part.replace(quote, quote * 2)}{quote}" for part in table.name.split("."))
        columns = [f"{quote}{column.replace(quote, quote * 2)}{quote}" for column in self._columns]
        conditions, parameters = [f"({self._condition})"] if self._condition else [], []
        if table.scan is not None:
            above = [f"{columns[0]} {'>' if len(columns) > 1 else '>='} {mark}"]
            parameters.append(table.scan[0])
            if len(columns) > 1:
                above.append(f"({columns[0]} = {mark} AND {columns[1]} >= {mark})")
                parameters += [table.scan[0], table.scan[1]]
            conditions.append(f"({' OR '.join(above)})")
        where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
        # The names are the application's own, and quoted; the values are bound.
        return f"SELECT * FROM {name}{where} ORDER BY {', '.join(columns)} LIMIT {_PAGE}", parameters  # noqa: S608

    def _message(self, table: _Table, place: Place, row: dict[str, Any]) -> Message:
        return Message(
            topic=table.name,
            body=msgspec.json.encode(row, enc_hook=str),
            id=f"{table.name}:{':'.join(map(str, place))}",
            row=row,
        )


def _text(place: Place) -> str:
    """A place as text, with the kinds of its values."""
    return msgspec.json.encode([[type(each).__name__, each] for each in place]).decode()


def _place(note: str | None) -> Place | None:
    if note is None:
        return None
    return tuple(msgspec.convert(value, _KINDS[kind], strict=False) for kind, value in msgspec.json.decode(note))
