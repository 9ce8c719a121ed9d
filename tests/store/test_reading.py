"""Reading the log by type: what one read returns is the log at one moment."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from antiphon import Event
from antiphon.model.envelope import Envelope
from antiphon.model.events import event_type_of
from antiphon.model.handlers import HandlerSpec
from antiphon.ports import Lease
from antiphon.runtime.clock import SystemClock
from antiphon.store.rows import bucket_of, log_row
from antiphon.store.sqlite.bus import SqliteBus
from antiphon.store.sqlite.queries import query
from antiphon.store.sqlite.store import SqliteStore

pytestmark = pytest.mark.anyio


class Asked(Event):
    n: int


class Answered(Event):
    n: int


async def ignore(_: Asked | Answered) -> None:
    """A handler of both types."""


def committed_between_reads(store: SqliteStore) -> Callable[[str], None]:
    """For `set_trace_callback`: as the second type is about to be read, another process commits one event of each."""
    reads = 0

    def statement(sql: str) -> None:
        nonlocal reads
        reads += "antiphon_log" in sql
        if reads == 2:
            reads += 1
            with closing(sqlite3.connect(store.path)) as other, other:
                for type_ in ("Asked", "Answered"):
                    event_id = store.clock.new_id()
                    envelope = Envelope(event_id, type_, 1, None, "elsewhere", 0, b'{"n":1}', event_id)
                    other.execute(query("append"), (*log_row(envelope, 0), bucket_of(None, event_id)))

    return statement


async def test_a_commit_between_two_types_hides_no_event(tmp_path: Path) -> None:
    """A handler of two types sees both of two events committed while it reads, or neither: never only the later."""
    store = SqliteStore(tmp_path / "shop.db", clock=SystemClock(), owner="test")
    await store.open()
    types = (event_type_of(Asked), event_type_of(Answered))
    await store.register([HandlerSpec("shop.both", "shop", ignore, types, (), (("_", "event"),), True, "here:1")])
    lease = await store.acquire("shop.both", "test")
    assert isinstance(lease, Lease)

    store._reader.set_trace_callback(committed_between_reads(store))
    seen = [event.envelope.type for event in await store.read_fresh(lease, ["Asked", "Answered"], 10)]
    store._reader.set_trace_callback(None)
    assert seen in ([], ["Asked", "Answered"])
    assert [event.envelope.type for event in await store.read_fresh(lease, ["Asked", "Answered"], 10)] == [
        "Asked",
        "Answered",
    ]
    await store.close()


async def test_a_commit_between_two_types_hides_no_event_on_the_bus(tmp_path: Path) -> None:
    """The same for what a service receives: it moves the positions of all its types by one read."""
    bus = SqliteBus(tmp_path / "bus.db", clock=SystemClock(), owner="test")
    await bus.open()
    bus.store._reader.set_trace_callback(committed_between_reads(bus.store))
    seen = [event.envelope.type for event in await bus.receive("receiver", {"Asked": 0, "Answered": 0}, 10)]
    bus.store._reader.set_trace_callback(None)
    assert seen in ([], ["Asked", "Answered"])
    await bus.close()
