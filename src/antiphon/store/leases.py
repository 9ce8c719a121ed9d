"""Who may run a handler: leases with a fencing epoch, and what a death says about the events it left."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from antiphon.errors import LeaseLost
from antiphon.model.handlers import HandlerSpec
from antiphon.ports import Lease
from antiphon.store.units import SqlUnit

if TYPE_CHECKING:
    from antiphon.store.base import SqlStore

log = logging.getLogger("antiphon.store")

#: A worker that does not renew its leases for this long has lost them.
LEASE_MS = 15_000
#: After this many deaths without progress, events run one at a time, each recorded before it starts.
STRIKES_TO_SUSPECT = 2
#: So many fresh events are then suspected: at least a whole batch.
SUSPECTS = 256


async def register(
    unit: SqlUnit,
    handlers: Sequence[HandlerSpec],
    elsewhere: Sequence[HandlerSpec],
    services: Iterable[str],
    now_ms: int,
) -> None:
    """Make cursors and subscriptions; those of types that a handler no longer names are dropped.

    Of *elsewhere*, which other processes run, what is known already is left alone. *handlers* are all that
    *services* have: any other of theirs is noted as removed; what it is owed is kept until it is forgotten.
    """
    await unit.one_at_a_time()
    head = (await unit.fetch_all(unit.query("head")))[0][0]
    for handler, is_here in [*((each, True) for each in handlers), *((each, False) for each in elsewhere)]:
        start = head if handler.start == "now" else 0
        await subscribe(unit, handler.name, handler.service, handler.type_names, start, now_ms, only_new=not is_here)
        if is_here:
            await unit.execute(unit.query("put_compensates"), (handler.compensates, handler.name))
    complete = dict.fromkeys((*services, *(handler.service for handler in handlers)))
    await note_removed(unit, [handler.name for handler in handlers], complete, now_ms)


async def subscribe(
    unit: SqlUnit, name: str, service: str, types: Sequence[str], start: int, now_ms: int, *, only_new: bool = False
) -> None:
    """A handler is owed events of *types* from *start* on if it is new, of those added later from its cursor on."""
    is_new = await unit.execute(unit.query("put_handler"), (name, service, start, now_ms)) == 1
    if only_new and not is_new:
        return
    if not is_new and not set(types) <= await _bound(unit, name):
        # Whoever runs it does not know the new types, and would move the cursor over their events.
        await unit.execute(unit.query("fence_off"), (LEASE_MS, name))
    for handler_id, cursor in await unit.fetch_all("SELECT id, seq FROM antiphon_handlers WHERE name = ?", (name,)):
        for type_ in types:
            await unit.execute(unit.query("put_subscription"), (handler_id, type_, start if is_new else cursor))
        await unit.execute(unit.query("end_subscriptions"), (handler_id, json.dumps(types)))


async def _bound(unit: SqlUnit, name: str) -> set[str]:
    """The types that a handler is owed."""
    found = await unit.fetch_all(unit.query("bound_types"), (name,))
    return {type_ for (type_,) in found}


async def note_removed(unit: SqlUnit, names: Iterable[str], services: Iterable[str], now_ms: int) -> None:
    """Of *services*, these are all handlers: others are removed since now, these are not, or no more."""
    await unit.execute(unit.query("note_removed"), (json.dumps(list(names)), now_ms, json.dumps(list(services))))


async def acquire(store: SqlStore, partition: str, owner: str) -> Lease | None:
    """Take the lease if it is free, expired, its owner is dead, or *owner* has it and could not release it.

    Who has registered the handler without a type that it is bound to by now, in newer code, does not get it.
    """
    place = _place(partition)
    found = await store.fetch_all("SELECT * FROM antiphon_handlers WHERE name = ? AND part = ?", place)
    if not found or not await _is_free(store, found[0], owner):
        return None
    async with store.unit() as unit:
        # Looked at again behind the gate: it may have been renewed or released meanwhile.
        row = (await unit.fetch_all(unit.query("take_turn"), place))[0]
        if not await _is_free(store, row, owner) or not await _knows_all(store, unit, row["name"]):
            return None
        await unit.execute(unit.query("take_lease"), (owner, store.store_ms() + LEASE_MS, row["id"]))
        strikes, suspect_seq = row["strikes"], row["suspect_seq"]
        if row["owner"] in (None, owner):
            # Without an owner there is something only where newer code has fenced one off.
            await unit.execute(unit.query("release_running"), (store.store_ms(), store.clock.now_ms(), row["id"]))
        else:
            strikes, suspect_seq = await _blame(store, unit, row)
            await unit.execute(unit.query("suspect_handler"), (strikes, suspect_seq, row["id"]))
    part, parts = row["part"], row["parts"]
    return Lease(row["name"], row["id"], owner, row["epoch"] + 1, row["seq"], suspect_seq, part, parts)


def _place(partition: str) -> tuple[str, int]:
    """The handler and the number that a partition is named after."""
    name, _, part = partition.rpartition("#")
    return (name, int(part)) if name and part.isdecimal() else (partition, 0)


async def _is_free(store: SqlStore, row: Any, owner: str) -> bool:
    if row["owner"] is None or row["owner"] == owner or row["lease_until_ms"] <= store.store_ms():
        return True
    return not await store.is_alive(row["owner"])


async def _knows_all(store: SqlStore, unit: SqlUnit, name: str) -> bool:
    known = store.registered.get(name)
    unknown = await _bound(unit, name) - known if known is not None else set()
    if unknown and name not in store.left_alone:
        store.left_alone.add(name)
        log.warning("%s is left to newer code, which binds it to %s too", name, ", ".join(sorted(unknown)))
    return not unknown


async def _blame(store: SqlStore, unit: SqlUnit, row: Any) -> tuple[int, int]:
    """An owner died. Returns the strikes now, and up to where fresh events are suspects.

    Attempts that were recorded as running are suspects for certain; one that had run alone is to
    blame. A batch leaves no record, so it takes a second death at the same place to suspect all of
    it: a bystander must not be blamed for one pull of the plug.
    """
    handler_id, now = row["id"], store.clock.now_ms()
    await unit.execute(unit.query("record_crashes"), (now, handler_id))
    running = await unit.execute(unit.query("suspect_running"), (store.store_ms(), now, handler_id))
    types = await unit.fetch_all("SELECT type FROM antiphon_subscriptions WHERE handler_id = ?", (handler_id,))
    wanted = [type_ for (type_,) in types]
    fresh = await store.read_owed(handler_id, wanted, row["seq"], SUSPECTS, row["part"], row["parts"])
    due = await store.rows("due_deliveries", (handler_id, store.store_ms(), 1))
    if running or not (fresh or due):
        return row["strikes"], row["suspect_seq"]
    strikes = row["strikes"] + 1
    if strikes < STRIKES_TO_SUSPECT:
        return strikes, row["suspect_seq"]
    await unit.execute(unit.query("suspect_due"), (handler_id,))
    return strikes, fresh[-1].seq if fresh else row["suspect_seq"]


# What is kept of single events goes with them: to the partition (?1) that has them from the one (?2) that had.
_MOVE = (
    "UPDATE {table} SET handler_id = ?1 WHERE handler_id = ?2 AND seq IN (SELECT l.seq FROM {table} AS d"
    " JOIN antiphon_log AS l ON l.seq = d.seq WHERE d.handler_id = ?2 AND {bucket} & ?3 = ?4)"
)
_MOVED = ("antiphon_deliveries", "antiphon_attempts", "antiphon_redrive_items")


async def split(store: SqlStore, lease: Lease, parts: int) -> None:
    """Give the lease back, and have the partition be several: those of *parts* in which its buckets are.

    All have its cursor, so none handles again what it has handled, or misses what it has not.
    Raises LeaseLost, and changes nothing, if the lease is somebody else's by now.
    """
    if parts <= lease.parts or parts & (parts - 1):
        raise ValueError(f"one of {lease.parts} partitions cannot be made some of {parts}")
    now, bucket = store.clock.now_ms(), store.query("part_bucket")
    async with store.unit() as unit:
        # Nobody submits a redrive meanwhile, or carries one out: its items name the partitions of their events.
        await unit.one_at_a_time()
        row = (await unit.fetch_all(unit.query("take_turn"), (lease.handler, lease.part)))[0]
        if (row["owner"], row["epoch"]) != (lease.owner, lease.epoch):
            raise LeaseLost("another worker has taken over", where=lease.name)
        await unit.fetch_all(unit.query("take_redrives"))
        await unit.execute(unit.query("release_running"), (store.store_ms(), now, row["id"]))
        for part in range(lease.part + lease.parts, parts, lease.parts):
            await unit.execute(unit.query("put_partition"), (part, parts, store.store_ms(), now, row["id"]))
            new = (await unit.fetch_all(unit.query("take_turn"), (lease.handler, part)))[0]["id"]
            await unit.execute(unit.query("copy_subscriptions"), (new, row["id"]))
            for table in _MOVED:
                await unit.execute(_MOVE.format(table=table, bucket=bucket), (new, row["id"], parts - 1, part))
        await unit.execute(unit.query("give_back_split"), (parts, store.store_ms(), row["id"]))
