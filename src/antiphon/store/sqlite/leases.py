"""Who may run a handler: leases with a fencing epoch, and what a death says about the events it left."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from antiphon.model.handlers import HandlerSpec
from antiphon.ports import Lease
from antiphon.store.sqlite.host import is_alive
from antiphon.store.sqlite.queries import query
from antiphon.store.sqlite.unit import SqliteUnit

if TYPE_CHECKING:
    from antiphon.store.sqlite.store import SqliteStore

#: A worker that does not renew its leases for this long has lost them.
LEASE_MS = 15_000
#: After this many deaths without progress, events run one at a time, each recorded before it starts.
STRIKES_TO_SUSPECT = 2
#: So many fresh events are then suspected: at least a whole batch.
SUSPECTS = 256


async def register(unit: SqliteUnit, handlers: Sequence[HandlerSpec], now_ms: int) -> None:
    """Make cursors and subscriptions; those of types that a handler no longer names are dropped."""
    head = (await unit.fetch_all(query("head")))[0][0]
    for handler in handlers:
        start = head if handler.start == "now" else 0
        is_new = await unit.execute(query("put_handler"), (handler.name, handler.service, start, now_ms)) == 1
        found = await unit.fetch_all("SELECT id, seq FROM antiphon_handlers WHERE name = ?", (handler.name,))
        handler_id, cursor = found[0]
        for type_ in handler.type_names:
            await unit.execute(query("put_subscription"), (handler_id, type_, start if is_new else cursor))
        kept = ", ".join("?" * len(handler.types))
        await unit.execute(
            f"DELETE FROM antiphon_subscriptions WHERE handler_id = ? AND type NOT IN ({kept})",  # noqa: S608
            (handler_id, *handler.type_names),
        )


async def acquire(store: SqliteStore, handler: str, owner: str) -> Lease | None:
    """Take the lease if it is free, expired, or its owner is dead; None otherwise."""
    found = await store.fetch_all("SELECT * FROM antiphon_handlers WHERE name = ?", (handler,))
    if not found or not _is_free(store, found[0]):
        return None
    epoch = found[0]["epoch"]
    async with store.unit() as unit:
        until = store.store_ms() + LEASE_MS
        if not await unit.execute(query("take_lease"), (owner, until, handler, epoch)):
            return None
        row = (await unit.fetch_all("SELECT * FROM antiphon_handlers WHERE name = ?", (handler,)))[0]
        strikes, suspect_seq = row["strikes"], row["suspect_seq"]
        if found[0]["owner"] is not None:
            strikes, suspect_seq = await _blame(store, unit, row)
            await unit.execute(query("suspect_handler"), (strikes, suspect_seq, row["id"]))
    return Lease(handler, row["id"], owner, epoch + 1, row["seq"], suspect_seq)


def _is_free(store: SqliteStore, row: Any) -> bool:
    return row["owner"] is None or row["lease_until_ms"] <= store.store_ms() or not is_alive(store.host, row["owner"])


async def _blame(store: SqliteStore, unit: SqliteUnit, row: Any) -> tuple[int, int]:
    """An owner died. Returns the strikes now, and up to where fresh events are suspects.

    Attempts that were recorded as running are suspects for certain; one that had run alone is to
    blame. A batch leaves no record, so it takes a second death at the same place to suspect all of
    it: a bystander must not be blamed for one pull of the plug.
    """
    handler_id, now = row["id"], store.clock.now_ms()
    await unit.execute(query("record_crashes"), (now, handler_id))
    running = await unit.execute(query("suspect_running"), (store.store_ms(), now, handler_id))
    types = await unit.fetch_all("SELECT type FROM antiphon_subscriptions WHERE handler_id = ?", (handler_id,))
    fresh = store.read_after([type_ for (type_,) in types], row["seq"], SUSPECTS)
    due = store.read("due_deliveries", (handler_id, store.store_ms(), 1))
    if running or not (fresh or due):
        return row["strikes"], row["suspect_seq"]
    strikes = row["strikes"] + 1
    if strikes < STRIKES_TO_SUSPECT:
        return strikes, row["suspect_seq"]
    await unit.execute(query("suspect_due"), (handler_id,))
    return strikes, fresh[-1].seq if fresh else row["suspect_seq"]
