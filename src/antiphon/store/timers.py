"""Timers: events that wait for their time become events of the log, exactly once."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from antiphon.model.envelope import Envelope
from antiphon.ports import Timer

if TYPE_CHECKING:
    from antiphon.store.base import SqlStore


async def next_timer_ms(store: SqlStore) -> int | None:
    """In how many milliseconds the next timer of either clock is due; None if none waits."""
    waits = []
    for clock, now in (("store", store.store_ms()), ("wall", store.clock.now_ms())):
        due = (await store.rows("next_timer", (clock,)))[0][0]
        if due is not None:
            waits.append(due - now)
    return min(waits, default=None)


async def fire_timers(store: SqlStore, occur: Callable[[Timer], tuple[Envelope, int | None]], limit: int) -> int:
    """Append the events of due timers, and move or end the timers, in one transaction."""
    fired = 0
    async with store.unit() as unit:
        for clock, now in (("store", store.store_ms()), ("wall", store.clock.now_ms())):
            for timer in map(_timer, await unit.fetch_all(unit.query("due_timers"), (clock, now, limit))):
                envelope, again = occur(timer)
                if again is None:
                    await unit.end_timer(timer.id)
                else:
                    await unit.execute(unit.query("move_timer"), (again, timer.id, timer.due_ms))
                await unit.append([(envelope, timer.origin)])
                fired += 1
    return fired


def _timer(row: Any) -> Timer:
    timer_id, due_ms, clock, recurrence, type_, version, key, service, correlation, *rest, origin, data = row
    envelope = Envelope(timer_id, type_, version, key, service, 0, data, correlation or timer_id, *rest)
    return Timer(timer_id, due_ms, clock, recurrence, envelope, origin)
