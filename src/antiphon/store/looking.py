"""Rows of the store as views: events, deliveries with their history, handlers."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from antiphon.errors import NotFound
from antiphon.model.delivery import DEAD, Status
from antiphon.model.views import (
    AttemptView,
    DeliveryView,
    HandlerStatus,
    LoggedView,
    PositionView,
    StatusCounts,
    logged_view,
)
from antiphon.store.rows import end_of, logged

if TYPE_CHECKING:
    from antiphon.store.base import SqlStore

#: Lag is counted up to here, and estimated beyond: counting a long backlog would take seconds.
EXACT_LAG = 10_000

_RECEIVER = "inlet:"
_COUNTED = {
    Status.UNPROCESSED: "parked",
    Status.IN_PROGRESS: "in_progress",
    Status.RETRY: "retry",
    Status.ERROR: "error",
    Status.FAILED: "failed",
}


# ---------------------------------------------------------------------- events


async def ids_from(store: SqlStore, beginning: str) -> list[str]:
    """The id *beginning*, if it is one, and some that begin with it."""
    return [row[0] for row in await store.rows("ids_from", (beginning, end_of(beginning)))] if beginning else []


async def full_id(store: SqlStore, event_id: str) -> str:
    """The id that *event_id* is, or is the only one to begin with. Raises NotFound."""
    found = await ids_from(store, event_id)
    if event_id in found or len(found) == 1:
        return event_id if event_id in found else str(found[0])
    if found:
        raise NotFound(
            f"several events begin with {event_id!r}", where=store.name, mend=f"Say more of it: {', '.join(found)}"
        )
    raise NotFound(f"no event has, or begins with, the id {event_id!r}", where=store.name)


async def events(
    store: SqlStore, terms: Iterable[tuple[str, Any]], limit: int, *, newest: bool = False
) -> list[LoggedView]:
    """The first *limit* events, or the newest, that fit all *terms* (SQL with ``?1`` for its value)."""
    conditions, parameters = [], []
    for sql, value in terms:
        parameters.append(value)
        conditions.append(sql.replace("?1", f"?{len(parameters)}"))
    parameters.append(limit)
    where = " AND ".join(conditions) or "TRUE"
    order = "DESC" if newest else "ASC"
    sql = f"{store.query('views')} WHERE {where} ORDER BY seq {order} LIMIT ?{len(parameters)}"
    found = [view_of(store, row) for row in await store.fetch_all(sql, parameters)]
    return found[::-1] if newest else found


def view_of(store: SqlStore, row: Sequence[Any]) -> LoggedView:
    """An event from a row of the ``views`` block."""
    *columns, only_for = row
    event = logged(columns)
    return logged_view(store.name, event.seq, event.envelope, event.origin, only_for)


# ---------------------------------------------------------------------- deliveries


async def deliveries(store: SqlStore, event_ids: Sequence[str]) -> list[DeliveryView]:
    """What became of events, for each handler that is owed them, in the order of the log."""
    rows = await store.fetch_all(store.query("deliveries_of"), (json.dumps(event_ids),))
    past = await histories(store, sorted({row["seq"] for row in rows}))
    return [_delivery(store, row, past.get((row["handler_id"], row["seq"]), [])) for row in rows]


async def histories(store: SqlStore, seqs: Sequence[int]) -> dict[tuple[int, int], list[AttemptView]]:
    """All attempts on record of the events at *seqs*, by handler and position."""
    found: dict[tuple[int, int], list[AttemptView]] = {}
    for handler_id, seq, number, outcome, at_ms, error_type, message, traceback in await store.rows(
        "history", (json.dumps(seqs),)
    ):
        attempt = AttemptView(
            number=number, outcome=outcome, at_ms=at_ms, error_type=error_type, message=message, traceback=traceback
        )
        found.setdefault((handler_id, seq), []).append(attempt)
    return found


def _delivery(store: SqlStore, row: Any, history: list[AttemptView]) -> DeliveryView:
    if row["status"] is not None:
        status, attempts, updated_ms = Status(row["status"]), row["attempts"], row["updated_ms"]
    elif row["seq"] <= row["cursor"]:
        status = Status.COMPLETED
        last = next((attempt for attempt in reversed(history) if attempt.outcome == "completed"), None)
        if last is None:
            # It succeeded at once, in a batch that left one note for all of it.
            last = AttemptView(number=1, outcome="completed", at_ms=row["passed_ms"] or row["time_ms"])
            history = [*history, last]
        attempts, updated_ms = last.number, last.at_ms
    else:
        status, attempts, updated_ms = Status.UNPROCESSED, 0, row["time_ms"]
    return DeliveryView(
        store=store.name,
        event_id=row["event_id"],
        handler=row["name"],
        service=row["service"],
        status=status,
        attempts=attempts,
        updated_ms=updated_ms,
        due_ms=wall_ms(store, row["due_ms"]) if status not in DEAD else None,
        reason=row["reason"],
        waits_for=row["waits_for"],
        archived=row["archived"],
        compensates=row["compensates"],
        history=tuple(history),
    )


def wall_ms(store: SqlStore, store_ms: int | None) -> int | None:
    """A moment of the store's clock, as the wall clock shows it now."""
    return None if store_ms is None else store_ms - store.store_ms() + store.clock.now_ms()


# ---------------------------------------------------------------------- handlers


async def handlers(store: SqlStore) -> list[HandlerStatus]:
    """Every handler that the store knows, by name."""
    return [each for each in await subscribers(store) if not each.handler.startswith(_RECEIVER)]


async def positions(store: SqlStore) -> list[PositionView]:
    """The positions noted in the store, and the receivers of a bus."""
    head, name = await store.head(), store.name
    return [
        PositionView(store=name, name=each, seq=seq, head=head if each == "sent" else None, updated_ms=updated_ms)
        for each, seq, updated_ms in await store.rows("positions_seen")
    ] + [
        PositionView(
            store=name,
            name=each.handler,
            seq=each.cursor,
            head=head,
            updated_ms=each.updated_ms,
            lag=each.lag,
            removed_ms=each.removed_ms,
        )
        for each in await subscribers(store)
        if each.handler.startswith(_RECEIVER)
    ]


async def subscribers(store: SqlStore) -> list[HandlerStatus]:
    """All that are owed events, by name: handlers, and the receivers of a bus."""
    subscribed: dict[int, list[tuple[str, int]]] = {}
    for handler_id, type_, start_seq in await store.rows("subscriptions"):
        subscribed.setdefault(handler_id, []).append((type_, start_seq))
    counts: dict[int, Counter[str]] = {}
    for handler_id, status, archived, count in await store.rows("count_deliveries"):
        counts.setdefault(handler_id, Counter())["archived" if archived else _COUNTED[status]] += count
    head = await store.head()
    found: dict[str, HandlerStatus] = {}
    for row in await store.fetch_all(store.query("handlers")):
        one = await _partition(store, row, subscribed.get(row["id"], []), counts.get(row["id"], Counter()), head)
        known = found.get(one.handler)
        found[one.handler] = one if known is None else _together(known, one)
    return list(found.values())


def _together(one: HandlerStatus, other: HandlerStatus) -> HandlerStatus:
    """A handler, of two lots of its partitions."""
    exact = one.lag_exact and other.lag_exact
    owners = dict.fromkeys(owner for each in (one, other) if each.owner for owner in each.owner.split(", "))
    paused = max((one, other), key=lambda each: each.paused_until_ms or 0)
    ages = [each.oldest_unhandled_s for each in (one, other) if each.oldest_unhandled_s is not None]
    counts = Counter(msgspec.structs.asdict(one.counts)) + Counter(msgspec.structs.asdict(other.counts))
    changed: HandlerStatus = msgspec.structs.replace(
        one,
        partitions=one.partitions + other.partitions,
        cursor=min(one.cursor, other.cursor),
        # What is not exact is the distance from the end of the log, of all partitions alike.
        lag=one.lag + other.lag if exact else max(one.lag, other.lag),
        lag_exact=exact,
        oldest_unhandled_s=max(ages, default=None),
        handled=one.handled + other.handled,
        failed_invocations=one.failed_invocations + other.failed_invocations,
        counts=StatusCounts(**counts),
        paused_until_ms=paused.paused_until_ms,
        pause_reason=paused.pause_reason,
        owner=", ".join(owners) or None,
        running=one.running and other.running,
        updated_ms=max(one.updated_ms, other.updated_ms),
    )
    return changed


async def _partition(
    store: SqlStore, row: Any, subscribed: list[tuple[str, int]], counts: Counter[str], head: int
) -> HandlerStatus:
    """A partition of a handler."""
    owed = [(type_, max(row["seq"], start_seq)) for type_, start_seq in subscribed]
    lag, lag_exact = await lag_of(store, row, owed, head - row["seq"])
    owner = row["owner"]
    return HandlerStatus(
        store=store.name,
        handler=row["name"],
        service=row["service"],
        types=tuple(type_ for type_, _ in owed),
        cursor=row["seq"],
        lag=lag,
        lag_exact=lag_exact,
        oldest_unhandled_s=await _oldest_unhandled_s(store, row, owed),
        handled=row["handled"],
        failed_invocations=row["failed_invocations"],
        counts=StatusCounts(**counts),
        paused_until_ms=wall_ms(store, row["paused_until_ms"]),
        pause_reason=row["pause_reason"],
        owner=owner,
        running=await is_running(store, owner, row["lease_until_ms"]),
        updated_ms=row["updated_ms"],
        removed_ms=row["removed_ms"],
    )


async def is_running(store: SqlStore, owner: str | None, lease_until_ms: int) -> bool:
    """Whether a live worker has the lease."""
    return owner is not None and lease_until_ms > store.store_ms() and await store.is_alive(owner)


async def lag_of(store: SqlStore, row: Any, owed: Sequence[tuple[str, int]], distance: int) -> tuple[int, bool]:
    """How many events of the types in *owed*, each after a position, a partition (its *row*) has not taken.

    The second part is False when there are more than are counted; the first is then their upper bound,
    the *distance* of its cursor from the head of the log.
    """
    lag = 0
    for type_, after_seq in owed:
        fresh = (await store.rows("count_fresh", (type_, after_seq, EXACT_LAG + 1)))[0][0]
        if 0 < fresh <= EXACT_LAG:
            fresh = await _count_owed(store, row, type_, after_seq)
        lag += fresh
        if lag > EXACT_LAG:
            return distance, False
    return lag, True


async def _count_owed(store: SqlStore, row: Any, type_: str, after_seq: int) -> int:
    sql, parameters = store.query("count_owed"), [type_, after_seq, row["id"]]
    if row["parts"] > 1:
        sql = f"{sql} AND {store.query('part_bucket')} & ?4 = ?5"
        parameters += [row["parts"] - 1, row["part"]]
    return int((await store.fetch_all(sql, parameters))[0][0])


async def _oldest_unhandled_s(store: SqlStore, row: Any, owed: Sequence[tuple[str, int]]) -> float | None:
    """How long ago the oldest event was published that a partition has not handled, in seconds."""
    times = [found[0] for found in await store.rows("oldest_open", (row["id"],))]
    for type_, after_seq in owed:
        events = await store.read_owed(row["id"], [type_], after_seq, 1, row["part"], row["parts"])
        times += [event.envelope.time_ms for event in events]
    return max(0, store.clock.now_ms() - min(times)) / 1000 if times else None
