"""Upkeep of a store: retention, forgetting what the code no longer has."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

import msgspec

from antiphon.errors import AntiphonError, NotFound
from antiphon.model.views import Forgotten
from antiphon.store import looking
from antiphon.store.effects import prune_effects
from antiphon.store.units import SqlUnit

if TYPE_CHECKING:
    from antiphon.store.base import SqlStore

# One large DELETE would hold the write lock for long; a thousand rows take some milliseconds.
_CHUNK = 1_000

_IDENTIFIED = ("antiphon_attempts", "antiphon_progress", "antiphon_deliveries")


class Pruned(msgspec.Struct, frozen=True):
    """How many events a pruning removed, and up to which position it was allowed to."""

    events: int
    upto_seq: int


# ---------------------------------------------------------------------- retention


async def mark(store: SqlStore) -> None:
    """Note how far the log has come by now. What had come by a time is later told by these marks."""
    async with store.unit() as unit:
        await unit.execute(unit.query("put_mark"), (store.clock.now_ms(), await store.head()))


async def prune(store: SqlStore, before_ms: int) -> Pruned:
    """Remove events that had come before *before_ms* (wall) and that nobody needs any more, in chunks.

    Kept is whatever a handler is owed and has not handled, whether it runs or not; any delivery that is not
    over (dead letters too, until they are archived); what has not been sent to the bus (receivers are the
    handlers of a bus's log); and the newest event, so that positions are never used again. When an event came is
    told by the marks of this store, since its time is its producer's word.
    """
    await mark(store)
    came_before = await _came_before(store, before_ms)
    limit = min(came_before, await store.head() - 1, *(seq for (seq,) in await store.rows("sent")))
    removed = after = 0
    while after < limit:
        end = (await store.rows("window_end", (after, limit, _CHUNK)))[0][0]
        if end is None:
            break
        removed += await _prune_window(store, after, end)
        after = end
        await store.clock.sleep(0)
    async with store.unit() as unit:
        await unit.execute(unit.query("prune_marks"), (came_before,))
    await _prune_answers(store, before_ms)
    await _prune_redrives(store, before_ms)
    await _prune_runs(store, before_ms)
    await prune_effects(store, before_ms)
    return Pruned(removed, max(limit, 0))


async def _came_before(store: SqlStore, before_ms: int) -> int:
    head = await store.head()
    if before_ms >= store.clock.now_ms():
        return head
    return int((await store.rows("mark_before", (before_ms, head)))[0][0])


async def _prune_window(store: SqlStore, after: int, end: int) -> int:
    """Remove what can go after *after*, up to *end*: at most a chunk."""
    unneeded = f"antiphon_log AS l WHERE l.seq > ? AND l.seq <= ? AND {store.query('part_unneeded')}"
    # A look without the write lock first: what is kept for somebody is looked at again and again.
    if not (await store.fetch_all(f"SELECT EXISTS (SELECT 1 FROM {unneeded})", (after, end)))[0][0]:  # noqa: S608
        return 0
    async with store.unit() as unit:
        removed = await unit.execute(f"DELETE FROM {unneeded}", (after, end))  # noqa: S608
    for (handler_id,) in await store.fetch_all("SELECT id FROM antiphon_handlers"):
        async with store.unit() as unit:
            for name in ("prune_deliveries", "prune_attempts", "prune_progress"):
                await unit.execute(unit.query(name), (handler_id, after, end))
    return removed


async def _prune_answers(store: SqlStore, before_ms: int) -> None:
    while True:
        async with store.unit() as unit:
            if await unit.execute(unit.query("prune_idempotency"), (before_ms, _CHUNK)) < _CHUNK:
                return


async def _prune_runs(store: SqlStore, before_ms: int) -> None:
    """Runs that have ended, with their journals, and what arrived for nobody."""
    removed = _CHUNK
    while removed == _CHUNK:
        async with store.unit() as unit:
            await unit.execute(unit.query("prune_journals"), (before_ms, _CHUNK))
            removed = await unit.execute(unit.query("prune_runs"), (before_ms, _CHUNK))
    removed = _CHUNK
    while removed == _CHUNK:
        async with store.unit() as unit:
            removed = await unit.execute(unit.query("prune_inbox"), (before_ms, _CHUNK))


async def _prune_redrives(store: SqlStore, before_ms: int) -> None:
    for (redrive_id,) in await store.rows("old_redrives", (before_ms,)):
        removed = _CHUNK
        while removed == _CHUNK:
            async with store.unit() as unit:
                removed = await unit.execute(unit.query("prune_items"), (redrive_id, _CHUNK))
        async with store.unit() as unit:
            await unit.execute(unit.query("prune_redrive"), (redrive_id,))


# ---------------------------------------------------------------------- forgetting


async def forget(store: SqlStore, name: str) -> Forgotten:
    """Forget a handler with all that it is owed.

    Its history goes first, in chunks, and the handler last: a crash leaves a handler to be forgotten again.
    Raises NotFound, and AntiphonError while a live worker has its lease.
    """
    status = next((status for status in await looking.subscribers(store) if status.handler == name), None)
    if status is None:
        raise NotFound(f"there is no handler {name!r}", where=store.name, mend="antiphon status lists them")
    ids = [handler_id for (handler_id,) in await store.rows("handler_id", (name,))]
    for table, handler_id in product(_IDENTIFIED, ids):
        removed = _CHUNK
        while removed >= _CHUNK:
            async with store.unit() as unit:
                await _check_stopped(store, unit, name)
                removed = await unit.execute(_DELETE_SOME.format(table=table), (handler_id, _CHUNK))
    async with store.unit() as unit:
        await unit.one_at_a_time()
        await _check_stopped(store, unit, name)
        ids = [handler_id for (handler_id,) in await unit.fetch_all(unit.query("handler_id"), (name,))]
        for table, handler_id in product(_IDENTIFIED, ids):
            await unit.execute(f"DELETE FROM {table} WHERE handler_id = ?", (handler_id,))  # noqa: S608
        for handler_id in ids:
            await unit.execute("DELETE FROM antiphon_handlers WHERE id = ?", (handler_id,))  # subscriptions follow
    return Forgotten(handler=name, unhandled=status.lag, open=status.counts.open, dead=status.counts.dead)


_DELETE_SOME = (
    "DELETE FROM {table} WHERE handler_id = ?1 AND seq <="
    " (SELECT max(seq) FROM (SELECT seq FROM {table} WHERE handler_id = ?1 ORDER BY seq LIMIT ?2) AS few)"
)


async def _check_stopped(store: SqlStore, unit: SqlUnit, name: str) -> None:
    rows = await unit.fetch_all("SELECT owner, lease_until_ms FROM antiphon_handlers WHERE name = ?", (name,))
    for owner, lease_until_ms in rows:
        if await looking.is_running(store, owner, lease_until_ms):
            raise AntiphonError(f"it runs (in {owner})", where=name, mend="Stop the processes that run it")
