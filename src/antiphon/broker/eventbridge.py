"""EventBridge as the bus: an event bus, and for each service that receives a rule with an SQS queue behind it.

An entry's detail is a CloudEvent as structured JSON, its detail type the event's type, its source the service.
EventBridge reads the detail and writes it anew, so data that may not come out of that as it went in travels as
``data_base64``; what does is given back its bytes.

EventBridge keeps no order, so nobody gets it without having said ``order=none``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any

import msgspec

from antiphon.broker.amazon import ERRORS, batches, legal, place_at, refused, shortened, unless, wait_for_all
from antiphon.broker.feed import AGAIN
from antiphon.broker.naming import shown
from antiphon.broker.queues import BATCH, QueueFeeds
from antiphon.errors import BusError, DeclarationError
from antiphon.model.envelope import Envelope
from antiphon.ports import Ability, Clock
from antiphon.wire import to_structured

#: What EventBridge takes, in one request.
_LARGEST = 256 * 1024
#: Left of that for what stands beside the detail.
_BESIDE = 8 * 1024
#: What EventBridge takes as the pattern of a rule.
_PATTERN = 2_000
_BUS_NAME_LONGEST = 250
_DIGEST = 12
_EXACT = 2**53
_NOT_THERE = frozenset({"ResourceNotFoundException"})
_THERE = frozenset({"ResourceAlreadyExistsException"})
_TARGET = "queue"


class EventBridgeBus(QueueFeeds):
    """A bus on EventBridge and SQS (``ports.Bus``). What was taken is gone, whatever *keep* says."""

    abilities: frozenset[Ability] = frozenset()

    def __init__(self, url: str, *, name: str, clock: Clock, keep: timedelta) -> None:
        place = place_at(url, {"order"})
        if place.options.get("order") != "none":
            raise DeclarationError(
                f"{shown(url)} keeps no order: the events of a key may overtake each other",
                mend="Say ?order=none where that does no harm; sqs:// keeps it",
            )
        super().__init__(shown(url), place, name=name, clock=clock, fifo=False)
        self._bus = shortened(f"antiphon-{name}", _BUS_NAME_LONGEST)
        self._bus_arn: str | None = None

    async def open(self) -> None:
        """See that AWS is there, and make the event bus. Raises BusError."""
        async with self._translated("cannot be reached", *ERRORS):
            await self._arn()

    async def expect(self, receivers: Mapping[str, Sequence[str]]) -> None:
        """Make a queue for each receiver, and rules that fill it with its types. Raises BusError."""
        async with self._translated("cannot make the queues", *ERRORS):
            undelivered = await self._queue_for(self._undelivered, "*")
        for receiver, types in receivers.items():
            async with self._translated(f"cannot make the queue of {receiver}", *ERRORS):
                arn = await self._queue_for(self._queue(receiver), f"{receiver}-*")
                await self._bind(receiver, arn, undelivered, types)

    async def send(self, sender: str, after_seq: int, upto_seq: int, events: Sequence[Envelope]) -> int:
        """Put all of *events*; returns when EventBridge holds each. Raises BusError."""
        async with self._translated("has not confirmed", *ERRORS):
            entries = await wait_for_all(self._entry(event) for event in events)
            await wait_for_all(self._put(batch) for batch in batches(entries, _size, most=BATCH, largest=_LARGEST))
        return upto_seq

    async def destroy(self, receivers: Iterable[str]) -> None:
        """Remove the event bus and the queues of *receivers*, with all that they hold. Raises BusError."""
        async with self._translated("cannot be removed", *ERRORS):
            events = await self._clients.of("events")
            for receiver in receivers:
                await self._remove_queue(self._queue(receiver))
                for rule, _ in await self._rules(receiver):
                    await events.remove_targets(Rule=rule, EventBusName=self._bus, Ids=[_TARGET])
                    await events.delete_rule(Name=rule, EventBusName=self._bus)
            await self._remove_queue(self._undelivered)
            with unless(_NOT_THERE):
                await events.delete_event_bus(Name=self._bus)
        async with self._translated("cannot be removed", *ERRORS):
            await self._large.destroy()

    # ------------------------------------------------------------------ inside

    async def _arn(self) -> str:
        """The event bus's; it is made if it is not there."""
        if self._bus_arn is None:
            events = await self._clients.of("events")
            with unless(_THERE):
                await events.create_event_bus(Name=self._bus)
            self._bus_arn = (await events.describe_event_bus(Name=self._bus))["Arn"]
        return self._bus_arn

    async def _queue_for(self, queue: str, rules: str) -> str:
        """Make a queue that the rules of these names may fill; its ARN."""
        _, partition, _, region, account, _ = (await self._arn()).split(":", 5)
        arn = f"arn:{partition}:sqs:{region}:{account}:{queue}"
        rule = f"arn:{partition}:events:{region}:{account}:rule/{self._bus}/{rules}"
        await self._make_queue(queue, arn, "events.amazonaws.com", rule)
        return arn

    async def _rules(self, receiver: str) -> list[tuple[str, set[str]]]:
        """The receiver's rules that fill its queue, and the types of each."""
        events = await self._clients.of("events")
        found = []
        pages = events.get_paginator("list_rules").paginate(EventBusName=self._bus, NamePrefix=f"{receiver}-")
        async for page in pages:
            for rule in page.get("Rules", ()):
                targets = await events.list_targets_by_rule(Rule=rule["Name"], EventBusName=self._bus)
                types = json.loads(rule["EventPattern"])["detail-type"] if targets.get("Targets") else ()
                found.append((rule["Name"], set(types)))
        return found

    async def _bind(self, receiver: str, arn: str, undelivered: str, types: Iterable[str]) -> None:
        """Have the queue get *types*. Rules are added and never changed: a changed one loses events for a while."""
        known: set[str] = set()
        for _, of_rule in await self._rules(receiver):
            known |= of_rule
        events = await self._clients.of("events")
        for part in _patterns(sorted({legal(type_) for type_ in types} - known)):
            pattern = json.dumps({"detail-type": part})
            rule = f"{receiver}-{hashlib.sha256(pattern.encode()).hexdigest()[:_DIGEST]}"
            await events.put_rule(Name=rule, EventBusName=self._bus, EventPattern=pattern)
            target = {"Id": _TARGET, "Arn": arn, "InputPath": "$.detail", "DeadLetterConfig": {"Arn": undelivered}}
            answer = await events.put_targets(Rule=rule, EventBusName=self._bus, Targets=[target])
            if failed := answer.get("FailedEntries"):
                raise BusError(f"it has not bound {arn}: {_why(failed)}", where=self._where, mend=AGAIN)

    async def _entry(self, event: Envelope) -> dict[str, Any]:
        """*event* as one of the entries of a request."""
        text = None if canonical(event.data) == event.data else _with_base64(event)
        return {
            "EventBusName": self._bus,
            "Source": legal(event.service),
            "DetailType": legal(event.type),
            "Detail": await self._large.message(event, _LARGEST - _BESIDE, text),
        }

    async def _put(self, batch: Sequence[dict[str, Any]]) -> None:
        """Put entries, again those that were not taken, as long as some are."""
        events = await self._clients.of("events")
        while batch:
            answers = (await events.put_events(Entries=list(batch)))["Entries"]
            failed = [(entry, each) for entry, each in zip(batch, answers, strict=True) if not each.get("EventId")]
            if len(failed) == len(batch):
                what = f"it refused {len(failed)} events: {_why([each for _, each in failed])}"
                raise BusError(what, where=self._where, mend=AGAIN)
            batch = [entry for entry, _ in failed]

    async def _decoded(self, body: bytes) -> Envelope:
        detail = _detail(body)
        event = await self._large.event(detail, received_ms=self._clock.now_ms())
        if _has_data(detail) and (data := canonical(event.data)) is not None:
            return msgspec.structs.replace(event, data=data)
        return event


class _Wrapped(msgspec.Struct):
    """An event as EventBridge passes it on whole."""

    detail: msgspec.Raw
    detail_type: str = msgspec.field(name="detail-type")


class _Data(msgspec.Struct):
    """A CloudEvent's data as JSON."""

    data: msgspec.Raw


def _detail(body: bytes) -> bytes:
    """The detail in a message: the whole of it, as the rules here have it, or a part."""
    try:
        return bytes(msgspec.json.decode(body, type=_Wrapped).detail)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return body


def _has_data(detail: bytes) -> bool:
    try:
        return bool(msgspec.json.decode(detail, type=_Data))
    except msgspec.DecodeError:
        return False


def canonical(data: bytes) -> bytes | None:
    """JSON text in the one form that it gets back after another program has read and written it; None if it holds what
    not every program keeps: numbers beyond 2^53, and whole ones written as fractions."""
    value = msgspec.json.decode(data)
    return msgspec.json.encode(value) if _is_kept(value) else None


def _is_kept(value: object) -> bool:
    match value:
        case bool() | None | str():
            return True
        case int():
            return abs(value) < _EXACT
        case float():
            return not value.is_integer()
        case list():
            return all(map(_is_kept, value))
        case dict():
            return all(map(_is_kept, value.values()))
    return False


def _with_base64(event: Envelope) -> str:
    """*event* with data that nobody writes anew."""
    members = msgspec.json.decode(to_structured(event), type=dict[str, msgspec.Raw])
    del members["data"]
    return msgspec.json.encode({**members, "data_base64": event.data}).decode()


def _patterns(types: Sequence[str]) -> Iterator[list[str]]:
    """*types* in parts that are not too much for the pattern of a rule."""
    return batches(types, lambda type_: len(json.dumps(type_)) + 2, most=_PATTERN, largest=_PATTERN)


def _size(entry: dict[str, Any]) -> int:
    return sum(len(each.encode()) for each in entry.values())


def _why(failed: Sequence[dict[str, Any]]) -> str:
    return refused([{"Code": each.get("ErrorCode"), "Message": each.get("ErrorMessage")} for each in failed])
