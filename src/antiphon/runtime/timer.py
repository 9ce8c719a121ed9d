"""Publishes what waits for its time: delayed events and recurring schedules."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import msgspec

from antiphon.model.envelope import Envelope
from antiphon.model.handlers import ScheduleSpec
from antiphon.policy.schedule import next_occurrence
from antiphon.ports import INTERNAL, TIMER_SET, Clock, Store, Timer
from antiphon.runtime.signals import Waker
from antiphon.runtime.transaction import recurrence_text

BATCH = 100
TICK_TYPE = "antiphon.tick."
# Wall clocks are set and jump: a date is looked at again at least this often.
_LOOK_AGAIN_MS = 30_000


class TimerLoop:
    """Fires the timers of one store. Several processes may: a timer fires in one transaction, once."""

    def __init__(self, name: str, store: Store, clock: Clock) -> None:
        self.name = f"timers of {name}"
        self._store = store
        self._clock = clock
        self._waker = Waker(clock)

    async def run(self) -> None:
        """Run until cancelled. Raises StoreError."""
        forget = self._store.listen((TIMER_SET,), self._waker.wake)
        try:
            while True:
                self._waker.clear()
                wait = await self._store.next_timer_ms()
                if wait is not None and wait <= 0:
                    await self._store.fire_timers(self._occur, BATCH)
                    continue
                await self._waker.wait(wait, look_again_ms=_LOOK_AGAIN_MS)
        finally:
            forget()

    def _occur(self, timer: Timer) -> tuple[Envelope, int | None]:
        """The event of a due timer, and when it is due again.

        What a schedule missed while nobody ran is made up for once.
        """
        envelope = msgspec.structs.replace(timer.envelope, time_ms=self._clock.now_ms())
        if timer.recurrence is None:
            return envelope, None
        event_id = self._clock.new_id()
        envelope = msgspec.structs.replace(envelope, id=event_id, correlation_id=event_id)
        if envelope.type.startswith(TICK_TYPE):
            due = datetime.fromtimestamp(timer.due_ms / 1000, UTC)
            envelope = msgspec.structs.replace(envelope, data=tick_data(envelope.type, due))
        return envelope, self._next_due_ms(timer.recurrence, timer.due_ms)

    def _next_due_ms(self, recurrence: str, due_ms: int) -> int:
        rule = json.loads(recurrence)
        every = timedelta(milliseconds=rule["every_ms"]) if rule["every_ms"] else None
        now = datetime.fromtimestamp(max(self._clock.now_ms(), due_ms) / 1000, UTC)
        following = next_occurrence(now, every=every, cron=rule["cron"], zone=rule["zone"])
        return round(following.timestamp() * 1000)


def schedule_timer(schedule: ScheduleSpec, clock: Clock) -> Timer:
    """The timer of a declared schedule, due for the first time."""
    now = datetime.fromtimestamp(clock.now_ms() / 1000, UTC)
    first = next_occurrence(now, every=schedule.every, cron=schedule.cron, zone=schedule.zone)
    type_ = schedule.handler.types[0]
    event_id = clock.new_id()
    envelope = Envelope(
        event_id, type_.name, type_.version, None, schedule.handler.service, clock.now_ms(), b"{}", event_id
    )
    recurrence = recurrence_text(schedule.every, schedule.cron, schedule.zone)
    due_ms = round(first.timestamp() * 1000)
    return Timer(f"declared:{schedule.name}", due_ms, "wall", recurrence, envelope, INTERNAL)


def tick_data(type_name: str, due: datetime) -> bytes:
    """The data of a schedule's tick: its name, and when it was due."""
    return msgspec.json.encode({"name": type_name.removeprefix(TICK_TYPE), "due": due})
