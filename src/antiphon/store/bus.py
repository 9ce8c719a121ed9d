"""The bus on a SQL database: a log of its own that carries events between services."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from antiphon.model.envelope import Envelope
from antiphon.ports import PUBLISHED, Ability, LoggedEvent
from antiphon.store.base import SqlStore
from antiphon.store.leases import note_removed, subscribe


def receiver_name(service: str) -> str:
    """A service as a handler of the bus's log; no function can have that name."""
    return f"inlet:{service}"


class LogBus:
    """A bus on a log (``ports.Bus``), that of *store*.

    A sender's position lies in the bus and moves with its events in one transaction: a batch sent
    twice, by a relay that died between sending and noting it, is taken once.
    """

    abilities: frozenset[Ability] = frozenset({"order", "positions", "rereads"})
    store: SqlStore

    async def open(self) -> None:
        """Open or make the log. Raises StoreError."""
        await self.store.open()

    async def close(self) -> None:
        """Close the log. Idempotent."""
        await self.store.close()

    async def send(self, sender: str, after_seq: int, upto_seq: int, events: Sequence[Envelope]) -> int:
        """Take *events* if the sender's position is *after_seq*; returns the position afterwards."""
        now = self.store.clock.now_ms()
        name = f"outlet:{sender}"
        async with self.store.unit() as unit:
            await unit.execute(unit.query("put_position"), (name, now))
            if not await unit.execute(unit.query("advance_position"), (upto_seq, now, name, after_seq)):
                return int(dict(await unit.fetch_all(unit.query("positions")))[name])
            await unit.append([(envelope, PUBLISHED) for envelope in events])
        return upto_seq

    async def position(self, sender: str) -> int:
        """How far the sender's log has been taken."""
        return (await self.store.positions()).get(f"outlet:{sender}", 0)

    async def receive(self, receiver: str, after: Mapping[str, int], limit: int) -> list[LoggedEvent]:
        """The next events of each type after its position, in the bus's order."""
        return await self.store.read_types(after, limit)

    async def expect(self, receivers: Mapping[str, Sequence[str]]) -> None:
        """Keep events for these services. To the bus's log each is a handler, ``inlet:<service>``."""
        now = self.store.clock.now_ms()
        names = {receiver_name(service): service for service in receivers}
        async with self.store.unit() as unit:
            await unit.one_at_a_time()
            for name, service in names.items():
                await subscribe(unit, name, service, receivers[service], 0, now)
            known = await unit.fetch_all("SELECT DISTINCT service FROM antiphon_handlers")
            await note_removed(unit, names, [service for (service,) in known], now)

    async def report(self, receiver: str, seq: int) -> None:
        """Note how far *receiver* has come, for retention."""
        async with self.store.unit() as unit:
            await unit.execute(unit.query("report_taken"), (seq, self.store.clock.now_ms(), receiver_name(receiver)))

    def listen(self, types: Iterable[str], wake: Callable[[], None]) -> Callable[[], None]:
        """Call *wake* when one of *types* may have arrived."""
        return self.store.listen(types, wake)
