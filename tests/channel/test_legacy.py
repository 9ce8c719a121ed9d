"""Folders and tables, as legacy systems leave them: files that grow, are replaced, are broken; rows that come late."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
from collections.abc import Sequence
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from antiphon import App, Service
from antiphon.channel import table
from antiphon.channel.connecting import sink_at, source_at
from antiphon.errors import BusError
from antiphon.model.channels import Message
from antiphon.ports import Clock
from antiphon.runtime.clock import SystemClock
from antiphon.testing.clock import VirtualClock
from tests.channel.kit import Got

pytestmark = pytest.mark.anyio

SOON = timedelta(milliseconds=1)


class Reader:
    """Reads one source, and keeps its notes."""

    def __init__(self, url: str, place: str, **options: Any) -> None:
        channel = App(Service("x"), name="y").channel(url, name="c", inbound={place: Got}, options=options)
        self._channel = channel
        self.notes: dict[str, str] = {}

    async def start(self, clock: Clock | None = None) -> Reader:
        """A process begins, with the notes of the one before."""
        self._source = source_at(self._channel, clock or SystemClock())
        await self._source.open(dict(self.notes))
        return self

    async def some(self) -> list[Message]:
        """What comes in a round, without marks."""
        found: Sequence[Message] = await self._source.receive(1000)
        self.notes |= dict(each.note for each in found if each.note)
        return [each for each in found if not each.is_mark]

    async def numbers(self) -> list[str]:
        """The column n of it."""
        return [str((each.row or {})["n"]) for each in await self.some()]


async def test_a_line_without_its_end_waits_for_it(tmp_path: Path) -> None:
    """Whoever writes a file may be in the midst of it."""
    reader = await Reader(f"folder://{tmp_path}", "*.csv", every=SOON).start()
    path = tmp_path / "a.csv"
    path.write_text("n,about\n1,a\n2")
    assert await reader.numbers() == ["1"]
    path.write_text("n,about\n1,a\n22,b\n")
    assert await reader.numbers() == ["22"]
    await reader.start()
    assert await reader.some() == []


async def test_another_file_of_the_same_name_is_read_from_its_start(tmp_path: Path) -> None:
    """What is the same in it has the same ids, what differs has others."""
    reader = await Reader(f"folder://{tmp_path}", "*.csv", every=SOON).start()
    path = tmp_path / "a.csv"
    path.write_text("n,about\n1,a\n2,a\n")
    before = [each.id for each in await reader.some()]
    path.write_text("n,about\n3,a\n2,a\n")
    after = [each.id for each in await reader.some()]
    assert before[1] == after[1]
    assert before[0] != after[0]


async def test_fields_may_hold_line_ends(tmp_path: Path) -> None:
    """A quoted field goes on over several lines; a byte order mark is no part of the first column's name."""
    (tmp_path / "a.csv").write_bytes('\ufeffn;about\r\n1;"two\nlines; ""quoted"""\r\n'.encode())
    reader = await Reader(f"folder://{tmp_path}", "*.csv", every=SOON, delimiter=";").start()
    assert [each.row for each in await reader.some()] == [{"n": "1", "about": 'two\nlines; "quoted"'}]


async def test_a_quote_without_its_end_costs_no_more_than_its_file(tmp_path: Path) -> None:
    """All that follows may belong to its field: many short lines, which are read again whenever somebody looks."""
    (tmp_path / "a.csv").write_bytes(b'n,about\n1,"' + b"\n" * 130_000)
    reader = await Reader(f"folder://{tmp_path}", "*.csv", every=SOON).start()
    began = time.process_time()
    assert await reader.some() == []
    assert time.process_time() - began < 2
    with (tmp_path / "a.csv").open("ab") as file:
        file.write(b'end"\n')
    (found,) = await reader.some()
    assert (found.row or {})["about"] == "\n" * 130_000 + "end"


async def test_a_broken_record_says_where_it_stands(tmp_path: Path) -> None:
    """Too few fields, or bytes that are no text: the record is told from its neighbours."""
    (tmp_path / "a.csv").write_bytes(b"n,about\n1\n\xff,b\n3,c\n")
    reader = await Reader(f"folder://{tmp_path}", "*.csv", every=SOON).start()
    found = await reader.some()
    assert [each.problem is None for each in found] == [False, False, True]
    assert "line 2 of a.csv has 1 fields" in (found[0].problem or "")


async def test_what_a_crash_has_left_of_a_line_is_taken_away(tmp_path: Path) -> None:
    """The line was not confirmed, and is written again."""
    channel = App(Service("x"), name="y").channel(f"folder://{tmp_path}", name="c", outbound={"out": Got})
    (tmp_path / "out").write_bytes(b'{"whole":1}\n' + b'{"half' * 500)
    sink = sink_at(channel, SystemClock())
    await sink.open()
    refused = await sink.send([Message(topic="out", body=b"one"), Message(topic="out", body=b"two\nlines")])
    assert (tmp_path / "out").read_bytes() == b'{"whole":1}\none\n'
    assert list(refused) == [1]


def legacy(path: Path, columns: str) -> sqlite3.Connection:
    """A database of somebody else."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute(f"CREATE TABLE orders ({columns})")
    return connection


async def test_a_row_that_is_committed_late_is_taken(tmp_path: Path) -> None:
    """Its number was given out before those that were read already; nothing else is taken twice for it."""
    with closing(legacy(tmp_path / "l.db", "id INTEGER PRIMARY KEY, n INTEGER")) as connection:
        connection.execute("INSERT INTO orders VALUES (1, 1), (3, 3)")
        reader = await Reader(f"table+sqlite://{tmp_path / 'l.db'}", "orders", every=SOON).start()
        assert await reader.numbers() == ["1", "3"]
        connection.execute("INSERT INTO orders VALUES (2, 2)")
        assert await _next(reader) == ["2"]
        await reader.start()
        assert await reader.numbers() == ["1", "2", "3"], "nothing was long enough ago to be settled"


async def test_what_is_settled_is_not_read_again(tmp_path: Path) -> None:
    """After the time in which rows may come late, a position is noted; the next process begins there."""
    with closing(legacy(tmp_path / "l.db", "id INTEGER PRIMARY KEY, n INTEGER")) as connection:
        connection.executemany("INSERT INTO orders VALUES (?, ?)", [(n, n) for n in range(1, 1201)])
        reader = await Reader(f"table+sqlite://{tmp_path / 'l.db'}", "orders", every=SOON, late=timedelta(0)).start()
        found = [n for _ in range(3) for n in await reader.numbers()]
        assert found == [str(n) for n in range(1, 1201)]
        assert reader.notes == {"orders": '[["int",1200]]'}
        await reader.start()
        connection.execute("INSERT INTO orders VALUES (1201, 1201)")
        assert await reader.numbers() == ["1201"]


async def test_rows_of_the_same_time_are_told_apart_by_a_key(tmp_path: Path) -> None:
    """Without one, that they cannot be is said instead of losing any."""
    with closing(legacy(tmp_path / "l.db", "at TEXT, id TEXT, n INTEGER")) as connection:
        connection.executemany("INSERT INTO orders VALUES ('2026', ?, ?)", [(f"{n:04}", n) for n in range(700)])
        url = f"table+sqlite://{tmp_path / 'l.db'}"
        reader = await Reader(url, "orders", every=SOON, column="at", key="id").start()
        assert [n for _ in range(2) for n in await reader.numbers()] == [str(n) for n in range(700)]
        without = await Reader(url, "orders", every=SOON, column="at").start()
        with pytest.raises(BusError, match="several rows"):
            await without.some()


async def test_a_condition_and_a_missing_table(tmp_path: Path) -> None:
    """Only rows that fit are taken; a table that is not there is waited for."""
    with closing(legacy(tmp_path / "l.db", "id INTEGER PRIMARY KEY, n INTEGER")) as connection:
        connection.execute("INSERT INTO orders VALUES (1, 1), (2, 2)")
        url = f"table+sqlite://{tmp_path / 'l.db'}"
        reader = await Reader(url, "orders", every=SOON, where="n > 1").start()
        assert await reader.numbers() == ["2"]
        missing = await Reader(url, "no such", every=SOON).start()
        with pytest.raises(BusError, match="no such table"):
            await missing.some()


async def _next(reader: Reader) -> list[str]:
    while not (found := await reader.numbers()):
        pass
    return found


async def test_a_row_that_is_committed_late_is_taken_when_a_round_takes_longer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was read once, however long ago, is settled only when the rows below it were read again since."""
    monkeypatch.setattr(table, "_PAGE", 2)
    clock = VirtualClock()
    with closing(legacy(tmp_path / "l.db", "id INTEGER PRIMARY KEY, n INTEGER")) as connection:
        connection.executemany("INSERT INTO orders VALUES (?, ?)", [(n, n) for n in (5, 6, 7)])
        reader = await Reader(f"table+sqlite://{tmp_path / 'l.db'}", "orders").start(clock)
        assert await reader.numbers() == ["5", "6"]
        connection.execute("INSERT INTO orders VALUES (4, 4)")
        await clock.advance(3_600)
        found = []
        for _ in range(40):
            reading = asyncio.ensure_future(reader.numbers())
            await clock.advance(1)
            found += await reading
        assert sorted(found) == ["4", "7"]


async def test_a_position_of_bytes_is_gone_on_from(tmp_path: Path) -> None:
    """Many a database keeps its UUIDs so."""
    with closing(legacy(tmp_path / "l.db", "id BLOB PRIMARY KEY, n INTEGER")) as connection:
        connection.execute("INSERT INTO orders VALUES (x'01ff', 1)")
        reader = await Reader(f"table+sqlite://{tmp_path / 'l.db'}", "orders", every=SOON, late=timedelta(0)).start()
        assert await reader.numbers() == ["1"]
        await reader.some()
        await reader.start()
        connection.execute("INSERT INTO orders VALUES (x'02', 2)")
        assert await reader.numbers() == ["2"]


async def test_a_file_whose_first_line_is_no_text_blocks_no_other(tmp_path: Path) -> None:
    """Each of its records is told to be broken; the next file is read."""
    (tmp_path / "a.csv").write_bytes(b"n,\xff\n1,a\n")
    (tmp_path / "b.csv").write_bytes(b"n,about\n2,b\n")
    reader = await Reader(f"folder://{tmp_path}", "*.csv", every=SOON).start()
    broken, whole = await reader.some()
    assert "the names of the columns of a.csv" in (broken.problem or "")
    assert whole.row == {"n": "2", "about": "b"}


async def test_a_file_whose_name_is_no_text_is_read(tmp_path: Path) -> None:
    """Its name, in what is kept, is made one."""
    Path(os.fsdecode(bytes(tmp_path) + b"/\xff.csv")).write_bytes(b"n,about\n1,a\n")
    reader = await Reader(f"folder://{tmp_path}", "*.csv", every=SOON).start()
    (message,) = await reader.some()
    assert message.headers == {"file": r"\xff.csv"}
    assert list(reader.notes) == [r"\xff.csv"]
    await reader.start()
    assert await reader.some() == []


async def test_a_link_out_of_the_folder_is_not_followed(tmp_path: Path) -> None:
    """Who may put files there may not have others of this machine read."""
    (tmp_path / "secret").write_bytes(b"n,about\n1,a\n")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a.csv").symlink_to(tmp_path / "secret")
    (folder / "b").write_bytes(b"n,about\n2,b\n")
    (folder / "b.csv").symlink_to("b")
    reader = await Reader(f"folder://{folder}", "*.csv", every=SOON).start()
    assert await reader.numbers() == ["2"]
