"""State that several regions write: kept from the events of all of them, and the same everywhere in the end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

import msgspec

from antiphon.errors import DeclarationError
from antiphon.model.events import EventType
from antiphon.runtime.transaction import Delivery, Transaction

E = TypeVar("E")

#: What is kept, by replica and key. *stamp* orders the events of a key: the time of one, then its id.
TABLES = """
CREATE TABLE IF NOT EXISTS replicas (
    kind VARCHAR(150) NOT NULL,
    about VARCHAR(200) NOT NULL,
    stamp VARCHAR(255) NOT NULL,
    data TEXT NOT NULL,
    PRIMARY KEY (kind, about)
);
"""


class Replica(Generic[E]):
    """The state of each key, made of one type of events; `Service.replicated` makes it.

    Without *merge* the last writer wins: of two events the one with the later time, and of the same time the one with
    the greater id, which are the same in every region. *merge* makes one state of the one that is kept and another that
    has come; it is given each event once, in an order that differs from region to region, so the result must not
    depend on the order.
    """

    def __init__(self, kind: str, event_type: EventType, merge: Callable[[E, E], E] | None) -> None:
        if event_type.key_field is None:
            raise DeclarationError(f"{event_type.name} has no key", where=kind, mend='class ...(Event, key="...")')
        self._kind = kind
        self._event_type = event_type
        self._merge = merge

    async def get(self, tx: Transaction, key: object) -> E | None:
        """The state of *key* as this region knows it; None if it knows none."""
        row = await self._row(tx, str(key))
        return None if row is None else self._read(row["data"])

    async def change(self, tx: Transaction, event: E) -> str:
        """Publish *event*, which replaces or adds to what is kept; returns its id.

        Its time is later than that of what is kept here, whatever the clocks of the regions say: who has seen a state
        and changes it wins over it.
        """
        key = self._event_type.key_of(event)
        row = None if key is None else await self._row(tx, key)
        event_id = tx.publish(event)
        if row is not None:
            envelope, origin = tx.outgoing[-1]
            time_ms = max(envelope.time_ms, int(row["stamp"].partition("/")[0]) + 1)
            tx.outgoing[-1] = (msgspec.structs.replace(envelope, time_ms=time_ms), origin)
        return event_id

    def handler(self) -> Callable[..., Any]:
        """The function that keeps the state."""

        async def keep(event: Any, tx: Transaction, delivery: Delivery) -> None:
            await self._keep(event, tx, delivery)

        keep.__annotations__["event"] = self._event_type.cls
        return keep

    async def _keep(self, event: E, tx: Transaction, delivery: Delivery) -> None:
        envelope = delivery.envelope
        key = self._event_type.key_of(event)
        if key is None:
            return
        stamp = f"{envelope.time_ms:015}/{envelope.id}"
        row = await self._row(tx, key)
        if row is not None:
            if self._merge is not None:
                event = self._merge(self._read(row["data"]), event)
                stamp = max(stamp, row["stamp"])
            elif row["stamp"] >= stamp:
                return
        await tx.execute("DELETE FROM replicas WHERE kind = ? AND about = ?", self._kind, key)
        await tx.execute(
            "INSERT INTO replicas (kind, about, stamp, data) VALUES (?, ?, ?, ?)",
            self._kind,
            key,
            stamp,
            self._event_type.encode(event).decode(),
        )

    async def _row(self, tx: Transaction, key: str) -> Any:
        return await tx.fetch_one("SELECT stamp, data FROM replicas WHERE kind = ? AND about = ?", self._kind, key)

    def _read(self, data: str) -> E:
        event: E = self._event_type.decode(data.encode(), self._event_type.version)
        return event
