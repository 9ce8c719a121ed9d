"""Redrives of many dead letters: frozen at submit, carried out step by step, each step one transaction."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from antiphon.model.views import DeadLetterFilter, RedriveJob
from antiphon.policy.redriving import End, Look, Redrive, Send, Step, next_step
from antiphon.ports import REDRIVE_SET
from antiphon.store.units import SqlUnit

if TYPE_CHECKING:
    from antiphon.store.base import SqlStore

# Outcomes that are noted in one transaction.
_OUTCOMES = 1_000


async def revive(unit: SqlUnit, handler_id: int, seq: int, type_: str, store_ms: int, now_ms: int) -> bool:
    """Make a dead letter an open delivery that is due now.

    False if it is dead no more, or archived, or its handler is not bound to its type any more.

    It takes its old place in the order of its key: before what is open and came later.
    """
    if not await unit.execute(unit.query("revive"), (store_ms, now_ms, handler_id, seq, type_)):
        return False
    await unit.execute(unit.query("put_act"), (handler_id, seq, "redriven", None, now_ms))
    unit.wake((type_,))
    return True


async def submit(
    store: SqlStore,
    where: DeadLetterFilter,
    condition: str,
    parameters: Sequence[Any],
    *,
    canary: bool,
    rate: float | None,
    stop_share: float | None,
    stop_after: int,
) -> str:
    """Freeze what matches *condition* now; returns the redrive's id."""
    redrive_id = store.clock.new_id()
    now = store.clock.now_ms()
    what = msgspec.json.encode(where).decode()
    state = "canary" if canary else "running"
    async with store.unit() as unit:
        await unit.one_at_a_time()
        row = (redrive_id, state, what, int(canary), rate, stop_share, stop_after, store.store_ms(), now, now)
        await unit.execute(unit.query("put_redrive"), row)
        total = await unit.execute(
            "INSERT INTO antiphon_redrive_items (redrive_id, seq, handler_id)"  # noqa: S608
            f" SELECT ?, found.seq, found.handler_id FROM ({store.query('dead_letters')} AND {condition}) AS found",
            (redrive_id, *parameters),
        )
        await unit.execute(
            "UPDATE antiphon_redrives SET total = ?1, waiting = ?1,"
            " state = CASE WHEN ?1 > 0 THEN state ELSE 'done' END WHERE id = ?2",
            (total, redrive_id),
        )
        unit.wake((REDRIVE_SET,))
    return redrive_id


async def cancel(store: SqlStore, redrive_id: str) -> bool:
    """End a redrive that is under way; False if it is over."""
    async with store.unit() as unit:
        changed = await unit.execute(
            "UPDATE antiphon_redrives SET state = 'cancelled', updated_ms = ?"
            " WHERE id = ? AND state IN ('canary', 'running', 'settling')",
            (store.clock.now_ms(), redrive_id),
        )
    return changed == 1


async def advance(store: SqlStore) -> int | None:
    """Do what is due of all redrives; in how many milliseconds to look again (None: none is under way)."""
    waits = [await _advance(store, row) for row in await store.fetch_all(store.query("redrives_under_way"))]
    return min((wait for wait in waits if wait is not None), default=None)


async def _advance(store: SqlStore, row: Any) -> int | None:
    step = next_step(await _look(store, row), store.store_ms())
    outcomes = await store.rows("redrive_outcomes", (row["id"], 1))
    if isinstance(step, Look) and step.state == row["state"] and not outcomes:
        return step.wait_ms  # nothing to write
    async with store.unit() as unit:
        # Another process may have been quicker: what counts is read again inside the transaction.
        found = await unit.fetch_all(unit.query("take_redrive"), (row["id"],))
        if not found or found[0]["state"] not in ("canary", "running", "settling"):
            return None
        return await _step(store, unit, found[0])


async def _step(store: SqlStore, unit: SqlUnit, row: Any) -> int | None:
    counts = Counter({name: int(row[name]) for name in ("waiting", "succeeded", "failed", "skipped")})
    for seq, handler_id, dead in await unit.fetch_all(unit.query("redrive_outcomes"), (row["id"], _OUTCOMES)):
        await _move(unit, row["id"], seq, handler_id, "failed" if dead else "succeeded", counts)
    failing = (await unit.fetch_all(unit.query("redrive_failing"), (row["id"],)))[0][0]
    step = next_step(_redrive(row, counts, failing), store.store_ms())
    if isinstance(step, Send):
        counts["waiting"] -= await _send(store, unit, row["id"], step.count, counts)
    await unit.execute(
        unit.query("move_redrive"),
        (
            step.state,
            step.reason if isinstance(step, End) else None,
            *(counts[name] for name in ("waiting", "succeeded", "failed", "skipped")),
            step.next_ms if isinstance(step, Send) else row["next_ms"],
            store.clock.now_ms(),
            row["id"],
        ),
    )
    return _wait(step)


async def _send(store: SqlStore, unit: SqlUnit, redrive_id: str, count: int, counts: Counter[str]) -> int:
    """Revive the next *count*; returns how many wait no more."""
    rows = await unit.fetch_all(unit.query("redrive_waiting"), (redrive_id, count))
    now, store_ms = store.clock.now_ms(), store.store_ms()
    for seq, handler_id, type_ in rows:
        revived = type_ is not None and await revive(unit, handler_id, seq, type_, store_ms, now)
        await _move(unit, redrive_id, seq, handler_id, "sent" if revived else "skipped", counts)
    return len(rows)


async def _move(unit: SqlUnit, redrive_id: str, seq: int, handler_id: int, state: str, counts: Counter[str]) -> None:
    await unit.execute(unit.query("move_item"), (state, redrive_id, seq, handler_id))
    counts[state] += 1


async def _look(store: SqlStore, row: Any) -> Redrive:
    failing = 0
    if row["stop_share"] is not None:
        failing = (await store.rows("redrive_failing", (row["id"],)))[0][0]
    return _redrive(row, row, failing)


def _redrive(row: Any, counts: Any, failing: int) -> Redrive:
    waiting, succeeded, failed, skipped = (counts[name] for name in ("waiting", "succeeded", "failed", "skipped"))
    return Redrive(
        state=row["state"],
        rate=row["rate"],
        stop_share=row["stop_share"],
        stop_after=row["stop_after"],
        next_ms=row["next_ms"],
        waiting=waiting,
        pending=row["total"] - waiting - succeeded - failed - skipped,
        failing=failing,
        succeeded=succeeded,
        failed=failed,
    )


def _wait(step: Step) -> int | None:
    if isinstance(step, Look):
        return step.wait_ms
    return 0 if isinstance(step, Send) else None


async def job_view(store: SqlStore, row: Any) -> RedriveJob:
    """A redrive as it is now; outcomes of one that was ended early are looked up."""
    waiting, succeeded, failed, skipped = (row[name] for name in ("waiting", "succeeded", "failed", "skipped"))
    known = row["total"] - waiting - succeeded - failed - skipped
    if known:
        for _, _, dead in await store.rows("redrive_outcomes", (row["id"], known)):
            failed, succeeded, known = failed + bool(dead), succeeded + (not dead), known - 1
    return RedriveJob(
        store=store.name,
        id=row["id"],
        state=row["state"],
        reason=row["reason"],
        what=msgspec.json.decode(row["what"], type=DeadLetterFilter),
        canary=bool(row["canary"]),
        rate=row["rate"],
        stop_share=row["stop_share"],
        stop_after=row["stop_after"],
        created_ms=row["created_ms"],
        updated_ms=row["updated_ms"],
        total=row["total"],
        waiting=waiting,
        pending=known,
        succeeded=succeeded,
        failed=failed,
        skipped=skipped,
    )
