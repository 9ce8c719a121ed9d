"""The log and its units: durable, atomic, in order, each id once."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path

from antiphon.errors import StoreError
from antiphon.model.envelope import Envelope
from antiphon.ports import INTERNAL, PUBLISHED, RECEIVED, Timer
from antiphon.testing.clock import VirtualClock
from antiphon.testing.conformance.kit import (
    TYPES,
    Interrupted,
    MakeStore,
    StoreCheck,
    append,
    check,
    envelope,
    ids,
    log_of,
    make_notes,
    note,
    notes,
    once,
    opened,
    refused,
    same,
)


async def what_was_committed_is_there_after_a_reopening(make: MakeStore, path: Path) -> None:
    """A unit that has ended is durable: its rows, its events and its positions outlive the store object."""
    async with opened(make, path) as (store,):
        await make_notes(store)
        async with store.unit() as unit:
            await note(unit, 1)
            await unit.append([(envelope(1), PUBLISHED)])
            await unit.move_position("p", 5)
    async with opened(make, path) as (store,):
        same(await notes(store), [1], "rows after closing and opening again")
        same(await ids(store), [envelope(1).id], "events after closing and opening again")
        same((await store.positions()).get("p"), 5, "a position after closing and opening again")


async def a_unit_is_all_or_nothing(make: MakeStore, path: Path) -> None:
    """An exception in a unit undoes all of it: rows, events, timers, positions."""
    async with opened(make, path) as (store,):
        await make_notes(store)
        with suppress(Interrupted):
            async with store.unit() as unit:
                await note(unit, 1)
                await unit.append([(envelope(1), PUBLISHED)])
                await unit.put_timer(Timer("t", 0, "store", None, envelope(2)))
                await unit.move_position("p", 5)
                raise Interrupted
        same(await notes(store), [], "rows of a unit that raised")
        same(await ids(store), [], "events of a unit that raised")
        same(await store.next_timer_ms(), None, "the next timer after a unit that raised")
        same(await store.positions(), {}, "positions after a unit that raised")


async def a_savepoint_undoes_what_came_after_it(make: MakeStore, path: Path) -> None:
    """Going back to the mark undoes everything after it and nothing before; a second mark moves it."""
    async with opened(make, path) as (store,):
        await make_notes(store)
        async with store.unit() as unit:
            await note(unit, 1)
            await unit.savepoint()
            await note(unit, 2)
            await unit.append([(envelope(1), PUBLISHED)])
            await unit.rollback_to_savepoint()
            await note(unit, 3)
            await unit.savepoint()
            await note(unit, 4)
            await unit.savepoint()
            await note(unit, 5)
            await unit.rollback_to_savepoint()
            await unit.append([(envelope(2), PUBLISHED)])
        same(await notes(store), [1, 3, 4], "rows of a unit that went back to its savepoints")
        same(await ids(store), [envelope(2).id], "events of a unit that went back to a savepoint")


async def a_unit_sees_its_own_writes(make: MakeStore, path: Path) -> None:
    """Reading in a unit shows what it has written; rows have index and name access."""
    async with opened(make, path) as (store,):
        await make_notes(store)
        async with store.unit() as unit:
            same(await unit.execute_many("INSERT INTO notes VALUES (?)", [(1,), (2,)]), 2, "rows that were changed")
            rows = await unit.fetch_all("SELECT n FROM notes WHERE n > ? ORDER BY n", (1,))
            same([(row[0], row["n"]) for row in rows], [(2, 2)], "the unit's own rows")
            same(await unit.execute("DELETE FROM notes WHERE n = ?", (2,)), 1, "rows that a statement changed")


async def readers_see_only_what_is_committed(make: MakeStore, path: Path) -> None:
    """While a unit is open, readers of this and other processes see nothing of it, and do not wait for it."""
    async with opened(make, path, "one", "two") as (store, other):
        await make_notes(store)
        async with store.unit() as unit:
            await note(unit, 1)
            await unit.append([(envelope(1), PUBLISHED)])
            for reader in (store, other):
                same(await notes(reader), [], "rows seen before the commit")
                same(await ids(reader), [], "events seen before the commit")
        for reader in (store, other):
            same(await notes(reader), [1], "rows seen after the commit")
            same(await ids(reader), [envelope(1).id], "events seen after the commit")


async def a_unit_that_is_over_does_nothing_more(make: MakeStore, path: Path) -> None:
    """A unit that is used after its end raises; it does not write into somebody else's transaction."""
    async with opened(make, path) as (store,):
        await make_notes(store)
        async with store.unit() as unit:
            await note(unit, 1)
        kept = unit
        async with store.unit() as unit:
            for late in (note(kept, 2), kept.append([(envelope(1), PUBLISHED)])):
                try:
                    await late
                except Exception:  # noqa: BLE001, S112  any error will do
                    continue
                raise AssertionError("a unit that is over could still be written to")
            await note(unit, 3)
        same(await notes(store), [1, 3], "rows after a unit was used when it was over")
        same(await ids(store), [], "events after a unit was used when it was over")


async def an_id_is_appended_once(make: MakeStore, path: Path) -> None:
    """An id that the log has is skipped, whoever brings it and whatever else it carries; the first one stays."""
    async with opened(make, path, "one", "two") as (store, other):
        await append(store, envelope(1), envelope(2))
        await append(other, envelope(2, data=b'"another"'), envelope(3))
        await append(store, envelope(4), envelope(4))
        await append(store)
        log = await log_of(store)
        same([event.envelope for event in log], [envelope(n) for n in (1, 2, 3, 4)], "the log")


async def an_event_comes_back_as_it_was(make: MakeStore, path: Path) -> None:
    """Every attribute and every byte of the data, up to 1 MiB of it, with where it came from."""
    big = bytes(range(256)) * 4096
    events = [
        Envelope("e-1", "T.ü", 7, "key \0 'x' \U0001f511", "svc", 2**53, b"\x00\xff not JSON", "c-1", "e-0", None),
        Envelope("e-2", "T", 1, None, "/elsewhere?x=1", 0, b"", "e-2", None, "00-" + "a" * 32 + "-" + "b" * 16 + "-01"),
        Envelope("e-3", "T", 1, "", "svc", 1, big, "e-3"),
    ]
    async with opened(make, path) as (store,):
        for event, origin in zip(events, (PUBLISHED, RECEIVED, INTERNAL), strict=True):
            await append(store, event, origin=origin)
    async with opened(make, path) as (store,):
        log = await log_of(store)
        same([event.envelope for event in log], events, "the events")
        same([event.origin for event in log], [PUBLISHED, RECEIVED, INTERNAL], "their origins")


async def the_log_is_in_commit_order(make: MakeStore, path: Path) -> None:
    """Positions grow from 1 upwards in the order of commits and within a unit, across processes."""
    async with opened(make, path, "one", "two") as (store, other):
        await append(store, envelope(3), envelope(1))
        await append(other, envelope(2))
        await append(store, envelope(0))
        log = await log_of(store)
        same([event.envelope for event in log], [envelope(n) for n in (3, 1, 2, 0)], "the log")
        seqs = [event.seq for event in log]
        check(seqs[0] > 0 and seqs == sorted(set(seqs)), f"positions must grow and be above 0: {seqs}")
        same(await store.read_log(seqs[1], 1), log[2:3], "one event after a position")
        same(await other.read_log(seqs[-1], 10), [], "events after the last one")


async def a_reader_skips_nothing(make: MakeStore, path: Path) -> None:
    """Whoever reads on from the last position seen meets every event, however commits of many are mixed."""
    async with opened(make, path, "one", "two", "reader") as (one, two, reader):
        seen: list[str] = []

        async def write(number: int) -> None:
            store = (one, two)[number % 2]
            for n in range(15):
                async with store.unit() as unit:
                    await unit.append([(envelope(1000 * number + n), PUBLISHED)])
                    await asyncio.sleep(0)
                    await unit.append([(envelope(1000 * number + 500 + n), PUBLISHED)])

        async def read() -> None:
            position = 0
            while len(seen) < 6 * 30:
                events = await reader.read_log(position, 7)
                for event in events:
                    check(event.seq > position, f"position {event.seq} came after {position}")
                    position = event.seq
                    seen.append(event.envelope.id)
                await asyncio.sleep(0)

        async with asyncio.timeout(60):
            await asyncio.gather(read(), *(write(number) for number in range(6)))
        same(seen, await ids(one), "what was met while it was written")


async def a_failing_unit_leaves_its_neighbours_alone(make: MakeStore, path: Path) -> None:
    """Of units that run at once, each is kept or undone by itself, whether they share a commit or not."""
    async with opened(make, path) as (store,):
        await make_notes(store)

        async def work(n: int) -> None:
            async with store.unit() as unit:
                await note(unit, n)
                if n % 3 == 0:
                    raise Interrupted
                if n % 3 == 1:
                    await asyncio.sleep(0)
                await unit.append([(envelope(n), PUBLISHED)])

        results = await asyncio.gather(*(work(n) for n in range(60)), return_exceptions=True)
        same([n for n, result in enumerate(results) if result is None], [n for n in range(60) if n % 3], "units kept")
        same(await notes(store), [n for n in range(60) if n % 3], "rows")
        same(sorted(await ids(store)), [envelope(n).id for n in range(60) if n % 3], "events")


async def a_failing_statement_fails_its_unit_alone(make: MakeStore, path: Path) -> None:
    """A statement at fault raises, and undoes the unit that it ends; neighbours in the same commit are kept."""
    async with opened(make, path) as (store,):
        await make_notes(store)

        async def work(n: int) -> None:
            async with store.unit() as unit:
                await note(unit, n)
                if n % 2:
                    await note(unit, n)

        results = await asyncio.gather(*(work(n) for n in range(20)), return_exceptions=True)
        same([n for n, result in enumerate(results) if result is None], list(range(0, 20, 2)), "units kept")
        same(await notes(store), list(range(0, 20, 2)), "rows")


async def a_cancelled_unit_is_whole_or_nothing(make: MakeStore, path: Path) -> None:
    """Cancelled while it waits, writes or commits, a unit is kept or undone as a whole; the store goes on."""
    async with opened(make, path) as (store,):
        await make_notes(store)

        async def work(n: int) -> None:
            async with store.unit() as unit:
                await note(unit, n)
                await asyncio.sleep(0)
                await unit.append([(envelope(n), PUBLISHED)])

        for round_ in range(40):
            tasks = [asyncio.ensure_future(work(10 * round_ + n)) for n in range(4)]
            for _ in range(round_ % 15):
                await asyncio.sleep(0)
            tasks[round_ % 4].cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for n, task in enumerate(tasks):
                if not task.cancelled():
                    task.result()
                    check(10 * round_ + n in await notes(store), "a unit that had ended was not kept")
        async with asyncio.timeout(30):
            await work(1000)
        same([envelope(n).id for n in await notes(store)], sorted(await ids(store)), "rows and events")


async def positions_never_go_back(make: MakeStore, path: Path) -> None:
    """A position that was noted stays, or grows."""
    async with opened(make, path, "one", "two") as (store, other):
        for seq, where in ((5, store), (3, other), (9, other), (1, store)):
            async with where.unit() as unit:
                await unit.move_position("p", seq)
                await unit.move_position("q", 10 - seq)
        same(await store.positions(), {"p": 9, "q": 9}, "positions")


async def a_listener_is_woken_after_the_commit(make: MakeStore, path: Path) -> None:
    """It finds the events when it is woken; a unit that raised wakes nobody; who has undone it is left alone."""
    async with opened(make, path) as (store,):
        found: list[int] = []
        anything: list[int] = []
        undo = store.listen(TYPES[:1], once(found))
        undo_all = store.listen((), once(anything))
        with suppress(Interrupted):
            async with store.unit() as unit:
                await unit.append([(envelope(1), PUBLISHED)])
                check(not found, "a listener was woken before the commit")
                raise Interrupted
        await asyncio.sleep(0)
        check(not found and not anything, "a listener was woken by a unit that raised")
        await append(store, envelope(1))
        await asyncio.sleep(0)
        check(bool(found) and bool(anything), "a listener was not woken by a commit")
        undo()
        undo_all()
        counts = len(found), len(anything)
        await append(store, envelope(2))
        await asyncio.sleep(0)
        same((len(found), len(anything)), counts, "wakes after the undo")


async def a_listener_hears_other_processes(make: MakeStore, path: Path) -> None:
    """A commit of another process wakes at once, or at the latest with the next upkeep."""
    async with opened(make, path, "one", "two") as (store, other):
        wakes: list[int] = []
        store.listen(TYPES[:1], once(wakes))
        await store.look_after()
        await other.look_after()
        wakes.clear()
        await append(other, envelope(1))
        for _ in range(50):
            await asyncio.sleep(0)
        if not wakes:
            await store.look_after()
        check(bool(wakes), "a commit of another process was not heard")
        same(await ids(store), [envelope(1).id], "events after the wake")


async def closing_is_repeatable_and_final(make: MakeStore, path: Path) -> None:
    """Closing twice does no harm; a closed store says so when it is written to."""
    store = make(path, clock=VirtualClock(), owner="one")
    await store.open()
    await append(store, envelope(1))
    await store.close()
    await store.close()
    await refused(append(store, envelope(2)), StoreError, "writing to a closed store")
    async with opened(make, path) as (again,):
        same(await ids(again), [envelope(1).id], "events after writing to a closed store")


async def a_backlog_is_read_in_bounded_pieces(make: MakeStore, path: Path) -> None:
    """However long the log, a read gives at most what was asked for, and all pieces together are the log."""
    await read_backlog(make, path, 5_000)


async def read_backlog(make: MakeStore, path: Path, events: int) -> None:
    """Append so many *events* and read them in pieces."""
    async with opened(make, path) as (store,):
        for first in range(0, events, 1_000):
            await append(store, *(envelope(n) for n in range(first, first + 1_000)))
    async with opened(make, path) as (store,):
        position = count = 0
        while piece := await store.read_log(position, 256):
            check(len(piece) <= 256, f"{len(piece)} events where at most 256 were asked for")
            same(piece[0].envelope.id, envelope(count).id, "the next event")
            position, count = piece[-1].seq, count + len(piece)
        same(count, events, "events that were read")


LOG_CHECKS: list[StoreCheck] = [
    what_was_committed_is_there_after_a_reopening,
    a_unit_is_all_or_nothing,
    a_savepoint_undoes_what_came_after_it,
    a_unit_sees_its_own_writes,
    readers_see_only_what_is_committed,
    a_unit_that_is_over_does_nothing_more,
    an_id_is_appended_once,
    an_event_comes_back_as_it_was,
    the_log_is_in_commit_order,
    a_reader_skips_nothing,
    a_failing_unit_leaves_its_neighbours_alone,
    a_failing_statement_fails_its_unit_alone,
    a_cancelled_unit_is_whole_or_nothing,
    positions_never_go_back,
    a_listener_is_woken_after_the_commit,
    a_listener_hears_other_processes,
    closing_is_repeatable_and_final,
    a_backlog_is_read_in_bounded_pieces,
]
