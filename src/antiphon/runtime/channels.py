"""What moves the messages of channels: in from foreign systems, and out to them. Runs under the steward, as workers do.

In: receive, map, append with the position in one transaction, acknowledge. Out: read after the cursor, map, send until
confirmed, move the cursor. A crash between any two of these repeats something, and nothing is repeated that is not
known by its id.
"""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Coroutine, Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeVar

from antiphon.channel.connecting import sink_at, source_at
from antiphon.channel.mapping import Mapper
from antiphon.errors import BusError, InvalidEvent, LeaseLost, StoreError
from antiphon.model.channels import ChannelSpec, Message
from antiphon.model.delivery import DeadLetter, Done, Status
from antiphon.model.envelope import Envelope
from antiphon.model.handlers import HandlerSpec
from antiphon.policy.fingerprint import failure_of
from antiphon.ports import PUBLISHED, RECEIVED, Clock, Lease, LoggedEvent, OpenDelivery, Settled, Sink, Source
from antiphon.runtime.signals import Waker
from antiphon.store.base import SqlStore
from antiphon.store.quarantine import quarantine
from antiphon.store.units import SqlUnit

log = logging.getLogger("antiphon.channel")

BATCH = 256
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.25, 10.0
T = TypeVar("T")


class ChannelWorker(ABC):
    """One direction of a channel, for the length of a lease."""

    def __init__(self, spec: HandlerSpec, store: SqlStore, clock: Clock, limit: int) -> None:
        assert spec.channel is not None
        self.spec = spec
        self.channel: ChannelSpec = spec.channel
        self._store = store
        self._clock = clock
        self._mapper = Mapper(self.channel, clock, limit)
        self._stopped = asyncio.Event()
        self._pause_s = _FIRST_PAUSE_S

    def stop(self) -> None:
        """Begin nothing more; `run` returns when what is in flight has been settled."""
        self._stopped.set()

    async def run(self, lease: Lease) -> None:
        """Move messages until stopped; what breaks is waited out. Raises LeaseLost."""
        while not self._stopped.is_set():
            try:
                await self._move(lease)
            except LeaseLost:
                raise
            except (BusError, StoreError, OSError) as error:
                log.error("%s waits %g s: %s", self.spec.name, self._pause_s, error)
                await self._unless_stopped(self._clock.sleep(self._pause_s))
                self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S)

    @abstractmethod
    async def _move(self, lease: Lease) -> None:
        """Connect, and move messages until stopped or until something breaks."""

    async def _unless_stopped(self, work: Coroutine[Any, Any, T]) -> T | None:
        """What *work* returns; None, and *work* is cancelled, when it is time to stop."""
        doing = asyncio.ensure_future(work)
        stopping = asyncio.ensure_future(self._stopped.wait())
        try:
            await asyncio.wait([doing, stopping], return_when=asyncio.FIRST_COMPLETED)
            return doing.result() if doing.done() else None
        finally:
            stopping.cancel()
            if not doing.done():
                doing.cancel()
                with suppress(asyncio.CancelledError, BusError, OSError):
                    await doing


class Receiver(ChannelWorker):
    """Fills the channel's log with what comes from outside, each message once."""

    def __init__(self, spec: HandlerSpec, store: SqlStore, clock: Clock, limit: int, *, is_alone: bool) -> None:
        super().__init__(spec, store, clock, limit)
        #: Where stores are joined by a bus, what comes in has to be sent on.
        self._origin = RECEIVED if is_alone else PUBLISHED

    async def _move(self, lease: Lease) -> None:
        source = source_at(self.channel, self._clock)
        try:
            await self._unless_stopped(source.open(await self._notes()))
            while not self._stopped.is_set():
                if messages := await self._unless_stopped(source.receive(BATCH)):
                    await self._take(lease, source, messages)
        finally:
            await source.close()

    async def _take(self, lease: Lease, source: Source, messages: Sequence[Message]) -> None:
        """Take *messages* durably; then they are acknowledged."""
        events: list[tuple[Envelope, int]] = []
        for message in messages:
            try:
                events += [(envelope, self._origin) for envelope in self._mapper.envelopes(message)]
            except InvalidEvent as error:
                log.error("%s sets a message of %s aside: %s", self.spec.name, message.topic, error)
                await quarantine(self._store, self.channel.name, message.body, error)
        notes = dict(message.note for message in messages if message.note is not None)
        async with self._store.unit() as unit:
            await unit.append(events)
            await _keep(unit, self.channel.name, notes)
            # The fence: whoever has lost the lease takes nothing, and moves no position back.
            await unit.settle(lease, (), lease.seq, len(events))
        self._pause_s = _FIRST_PAUSE_S
        await source.acknowledge(messages)

    async def _notes(self) -> dict[str, str]:
        rows = await self._store.fetch_all(
            "SELECT name, note FROM channel_notes WHERE channel = ?", (self.channel.name,)
        )
        return {row[0]: row[1] for row in rows}


class Forwarder(ChannelWorker):
    """Drains what the app publishes for a foreign system: in order by key, each event at least once."""

    def __init__(self, spec: HandlerSpec, store: SqlStore, clock: Clock, limit: int) -> None:
        super().__init__(spec, store, clock, limit)
        self._waker = Waker(clock)

    def stop(self) -> None:
        """As any other's; and wake it."""
        super().stop()
        self._waker.wake()

    async def _move(self, lease: Lease) -> None:
        forget = self._store.listen(self.spec.type_names, self._waker.wake)
        sink = sink_at(self.channel, self._clock)
        try:
            await self._unless_stopped(sink.open())
            while not self._stopped.is_set():
                self._waker.clear()
                if await self._send_due(lease, sink) or await self._send_fresh(lease, sink):
                    self._pause_s = _FIRST_PAUSE_S
                elif not self._stopped.is_set():
                    due = await self._store.next_due_ms(lease)
                    await self._waker.wait(None if due is None else max(1, due - self._store.store_ms()))
        finally:
            forget()
            await sink.close()

    async def _send_fresh(self, lease: Lease, sink: Sink) -> bool:
        """Send the next events after the cursor. False if there are none."""
        events = await self._store.read_fresh(lease, self.spec.type_names, BATCH)
        if not events:
            return False
        now = self._store.store_ms()
        results = await self._send(sink, [Settled(event, Done(), True, 1, now) for event in events])
        refused = [each for each in results if not isinstance(each.verdict, Done)]
        upto = events[-1].seq
        async with self._store.unit() as unit:
            await unit.settle(lease, refused, upto, len(results) - len(refused))
        lease.seq = upto
        return True

    async def _send_due(self, lease: Lease, sink: Sink) -> bool:
        """Send what has been redriven. False if there is nothing."""
        due: list[OpenDelivery] = await self._store.read_due(lease, BATCH)
        if not due:
            return False
        now = self._store.store_ms()
        again = [
            Settled(each.event, Done(), False, each.attempts + 1, now if each.first_ms is None else each.first_ms)
            for each in due
        ]
        results = await self._send(sink, again)
        async with self._store.unit() as unit:
            await unit.settle(lease, results, lease.seq)
        return True

    async def _send(self, sink: Sink, owed: list[Settled]) -> list[Settled]:
        """Send the events of *owed*, in order; what can never be sent gets a verdict of its own."""
        outgoing: list[tuple[int, Message]] = []
        refused: dict[int, tuple[str, Exception]] = {}
        for index, each in enumerate(owed):
            try:
                outgoing += [(index, message) for message in self._mapper.messages(each.event.envelope)]
            except Exception as error:  # noqa: BLE001  the application's own function
                refused[index] = (f"it cannot be encoded: {error}", error)
        if outgoing:
            never = await sink.send([message for _, message in outgoing])
            for at, reason in never.items():
                refused[outgoing[at][0]] = (reason, InvalidEvent(outgoing[at][1].topic, "$", reason))
        return [_dead(each, *refused[index]) if index in refused else each for index, each in enumerate(owed)]


def _dead(owed: Settled, reason: str, error: Exception) -> Settled:
    event: LoggedEvent = owed.event
    log.error("event %s is set aside: %s", event.envelope.id, reason)
    verdict = DeadLetter(Status.ERROR, reason)
    return Settled(event, verdict, owed.fresh, owed.number, owed.first_ms, failure_of(error))


async def _keep(unit: SqlUnit, channel: str, notes: Mapping[str, str]) -> None:
    for name, note in notes.items():
        await unit.execute("DELETE FROM channel_notes WHERE channel = ? AND name = ?", (channel, name))
        await unit.execute("INSERT INTO channel_notes (channel, name, note) VALUES (?, ?, ?)", (channel, name, note))
