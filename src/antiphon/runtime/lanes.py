"""Who of the waiting goes next, where a handler shares its time fairly among tenants."""

from __future__ import annotations

from antiphon.errors import InvalidEvent
from antiphon.policy.fairness import Shares
from antiphon.ports import Lease, LoggedEvent, OpenDelivery, Store
from antiphon.runtime.invoke import Invoker

#: So many new events are looked at in one turn, and so many lanes.
LOOK_AHEAD = 1_024
MOST_LANES = 256
#: More than this are not handled between two looks at who waits.
TURN = 16


class Lanes:
    """Lines up what waits for one handler, a lane a tenant, and picks who goes next.

    While all that waits fits into one turn nobody has to be lined up, and the events are handled as they come.
    Otherwise each gets a row, since the cursor can pass only what has one; so a backlog costs rows, not memory.
    """

    def __init__(self, store: Store, invoker: Invoker, shares: Shares) -> None:
        self._store = store
        self._invoker = invoker
        self._shares = shares
        self._types = invoker.spec.type_names
        self._after = ""

    async def next(self, lease: Lease, room: int) -> tuple[list[tuple[OpenDelivery, str]], list[LoggedEvent]]:
        """Deliveries with their lanes in the order of their turns; or fresh events, if nobody waits for a turn."""
        room = min(room, TURN)
        fresh = await self._store.read_fresh(lease, self._types, LOOK_AHEAD)
        waiting = await self._waiting(lease, room)
        if fresh and (waiting or len(fresh) > room):
            await self._line_up(lease, fresh)
            waiting = await self._waiting(lease, room)
            fresh = []
        return self._shares.pick(waiting, room), fresh

    async def _waiting(self, lease: Lease, room: int) -> dict[str, list[tuple[OpenDelivery, str]]]:
        """The first of each lane whose time has come. Beyond so many lanes, others are looked at each time."""
        lanes = await self._store.lanes(lease, self._after, MOST_LANES)
        if len(lanes) < MOST_LANES and self._after:
            lanes += [lane for lane in await self._store.lanes(lease, "", MOST_LANES) if lane not in lanes]
            lanes = lanes[:MOST_LANES]
        self._after = lanes[-1] if len(lanes) == MOST_LANES else ""
        return {lane: [(each, lane) for each in await self._store.read_lane(lease, lane, room)] for lane in lanes}

    async def _line_up(self, lease: Lease, events: list[LoggedEvent]) -> None:
        upto = events[-1].seq
        async with self._store.unit() as unit:
            await unit.line_up(lease, [(event, self._lane_of(event)) for event in events], upto)
        lease.seq = upto

    def _lane_of(self, event: LoggedEvent) -> str:
        """The tenant of *event*; that of what cannot be read is its own, and its attempt says why."""
        fair_by = self._invoker.spec.fair_by
        try:
            lane = fair_by(self._invoker.decode(event)) if fair_by is not None else None
        except InvalidEvent:
            return ""
        return "" if lane is None else str(lane)
