"""Small services whose handlers fail on demand, for the tests of the desk."""

from __future__ import annotations

from antiphon import Event, Reject, Retry, Service, Transaction, seconds
from antiphon.model.events import event_type_of
from antiphon.store.desk import Desk
from tests.runtime.kit import World

ONCE = Retry(attempts=1)
TWICE = Retry(attempts=2, first=seconds(10), jitter=False)


class Ordered(Event, key="customer"):
    customer: str
    n: int


TYPES = {"Ordered": event_type_of(Ordered)}


class Billed(Event, key="customer"):
    customer: str
    n: int


class Shop:
    """A producer, a biller that fails for numbers in *failing*, and a counter of what was billed.

    *started*, *billed* and *noted* hold (customer, n) in the order of handling.
    """

    def __init__(self, retry: Retry = ONCE) -> None:
        self.failing: set[int] = set()
        self.refused: set[int] = set()
        self.started: list[tuple[str, int]] = []
        self.billed: list[tuple[str, int]] = []
        self.noted: list[tuple[str, int]] = []
        self.shop = Service("shop")
        self.billing = Service("billing", tables="CREATE TABLE IF NOT EXISTS bills (n INTEGER);")
        self.audit = Service("audit")

        @self.billing.on(Ordered, retry=retry)
        async def bill(event: Ordered, tx: Transaction) -> Billed:
            self.started.append((event.customer, event.n))
            if event.n in self.refused:
                raise Reject("not ours")
            if event.n in self.failing:
                raise RuntimeError(f"no card for {event.n}")
            await tx.execute("INSERT INTO bills VALUES (?)", event.n)
            self.billed.append((event.customer, event.n))
            return Billed(event.customer, event.n)

        @self.audit.on(Ordered, Billed)
        async def note(event: Ordered | Billed) -> None:
            self.noted.append((type(event).__name__, event.n))

    @property
    def services(self) -> tuple[Service, ...]:
        """All of them."""
        return self.shop, self.billing, self.audit


async def statuses(desk: Desk, event_id: str) -> dict[str, str]:
    """The status of an event by handler."""
    return {each.handler: str(each.status) for each in await desk.deliveries_of([event_id])}


async def order(world: World, *numbers: int, customer: str | None = None) -> list[str]:
    """Publish one order for each number, by a customer each unless *customer* is given."""
    return await world.publish("shop", *(Ordered(customer or f"c{n}", n) for n in numbers))


def desk_of(world: World) -> Desk:
    """A desk that knows the app's event types."""
    return Desk(world.store, TYPES)
