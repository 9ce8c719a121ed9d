"""Random lives of an application, checked against what each event should have come to."""

import asyncio
import random
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from antiphon import Event, Reject, Retry, Service, Transaction, seconds
from antiphon.runtime.runtime import Runtime
from antiphon.testing.clock import VirtualClock

pytestmark = pytest.mark.anyio

TABLE = "CREATE TABLE IF NOT EXISTS effects (id INTEGER PRIMARY KEY, handler TEXT, key TEXT, n INTEGER);"
RETRY = Retry(attempts=4, first=seconds(2), cap=seconds(30), crashes=1_000)
KEYS = ("a", "b", "c", "d\0", "", None)
HANDLERS = ("bill", "mail", "both", "count")
_OPEN = "('UNPROCESSED', 'IN_PROGRESS', 'RETRY')"


class Ordered(Event, key="customer"):
    customer: str | None
    n: int


class Billed(Event, key="customer"):
    customer: str | None
    n: int


class Life:
    """An application in one or two processes, what is done to it, and what must be true when it has come to rest."""

    def __init__(self, data: Path, seed: int) -> None:
        self.data = data
        self.random = random.Random(seed)
        self.clock = VirtualClock(seed)
        self.own_stores = bool(seed % 2)
        self.runtimes: list[Runtime] = []
        self.outage: set[str] = set()
        self.had_outage = False
        self.calls: Counter[tuple[str, int]] = Counter()
        self.fates: dict[tuple[str, int], str | int] = {}
        self.keys: dict[int, str | None] = {}
        self.delayed: set[int] = set()
        self.log: list[str] = []

    # ------------------------------------------------------------------ the application

    def fate(self, handler: str, n: int) -> str | int:
        """How often the handler fails on the event, or that it never succeeds; the same every time it is asked."""
        chance = random.Random(f"{handler} {n} {self.clock.boot_id()}").random()
        fates: list[tuple[float, str | int]] = [(0.05, "reject"), (0.09, "fail"), (0.14, 3), (0.2, 2), (0.3, 1)]
        return self.fates.setdefault((handler, n), next((fate for upto, fate in fates if chance < upto), 0))

    def judge(self, handler: str, n: int) -> None:
        """Fail as often as the event's fate says."""
        if handler in self.outage:
            raise ConnectionError("down")
        self.calls[handler, n] += 1
        fate = self.fate(handler, n)
        if fate == "reject":
            raise Reject("never")
        if fate == "fail" or (isinstance(fate, int) and self.calls[handler, n] <= fate):
            raise asyncio.CancelledError if n % 7 == 0 else RuntimeError("not yet")

    async def effect(self, tx: Transaction, handler: str, event: Ordered | Billed) -> None:
        """What a handler does, so that it can be counted."""
        await tx.execute(
            "INSERT INTO effects (handler, key, n) VALUES (?, ?, ?)", handler, event.customer, _number(event)
        )

    def services(self) -> list[Service]:
        """A producer, a batch handler that publishes, two that wait outside, and one of several types."""
        shop, billing, mail, both = (Service(name, tables=TABLE) for name in ("shop", "billing", "mail", "both"))
        for service in (shop, billing, mail, both):
            service.tables = TABLE

        @billing.on(Ordered, name="bill", retry=RETRY)
        async def bill(event: Ordered, tx: Transaction) -> Billed:
            await self.effect(tx, "bill", event)
            self.judge("bill", event.n)
            return Billed(event.customer, event.n)

        @mail.on(Ordered, name="mail", retry=RETRY, concurrency=3)
        async def send(event: Ordered, tx: Transaction) -> None:
            await self.clock.sleep(event.n % 4)
            if event.n % 3 == 0:
                await self.effect(tx, "mail", event)
            self.judge("mail", event.n)
            if event.n % 3:
                await self.effect(tx, "mail", event)

        @both.on(Ordered, Billed, name="both", retry=RETRY)
        async def of_both(event: Ordered | Billed, tx: Transaction) -> None:
            await self.effect(tx, "both", event)
            if event.n % 5 == 0:
                await asyncio.sleep(0)
            self.judge("both", _number(event))

        @both.on(Billed, name="count", retry=RETRY)
        async def count(event: Billed, tx: Transaction) -> None:
            await self.effect(tx, "count", event)
            self.judge("count", _number(event))

        return [shop, billing, mail, both]

    # ------------------------------------------------------------------ what is done to it

    async def begin(self) -> None:
        """Start one more process, of all services or of some."""
        services = [service.spec for service in self.services()]
        some = ["shop", *self.random.sample(["billing", "mail", "both"], 2)] if self.runtimes else None
        runtime = Runtime("life", services, data=self.data, own_stores=self.own_stores, clock=self.clock, services=some)
        await runtime.start()
        self.runtimes.append(runtime)

    async def end(self, runtime: Runtime, *, crash: bool = False) -> None:
        """Stop without grace; in a crash nothing is given back, and what ran is found by others."""
        self.runtimes.remove(runtime)
        if crash:
            for store in runtime.stores.values():
                store.release = _nothing
        await runtime.stop(grace_s=0)

    async def step(self, first: int) -> int:
        """Do something; returns the number of the next event."""
        chance = self.random.random()
        if not self.runtimes:
            await self.begin()
        runtime = self.random.choice(self.runtimes)
        if chance < 0.45:
            return await self.publish(runtime, first, self.random.randrange(1, 12))
        if chance < 0.75:
            await self.clock.advance(self.random.choice((0.1, 1, 3, 10)))
        elif chance < 0.81:
            await self.end(runtime, crash=chance < 0.78)
        elif chance < 0.88:
            if len(self.runtimes) < 2:
                await self.begin()
        elif chance < 0.92:
            self.clock.set_wall(self.random.choice((-86_400, -30, 0, 600, 86_400 * 30)))
        elif chance < 0.96:
            self.outage ^= {self.random.choice(HANDLERS)}
            self.had_outage |= bool(self.outage)
        else:
            await self.clock.jump(self.random.choice((1, 20, 90)))
        return first

    async def publish(self, runtime: Runtime, first: int, count: int) -> int:
        """Publish some orders, now, in a transaction or later."""
        events = [Ordered(self.random.choice(KEYS), n) for n in range(first, first + count)]
        events = [event if event.customer else Ordered(None, event.n) for event in events]
        self.keys.update({event.n: event.customer for event in events})
        if self.random.random() < 0.7:
            await runtime.publish("shop", *events)
            return first + count
        async with runtime.transaction("shop") as tx:
            for event in events:
                if self.random.random() < 0.3:
                    self.delayed.add(event.n)
                    await tx.publish_later(event, delay=seconds(self.random.randrange(20)))
                else:
                    tx.publish(event)
        return first + count

    async def come_to_rest(self) -> None:
        """Heal everything, and wait until nothing is left to do."""
        self.outage.clear()
        if not self.runtimes:
            await self.begin()
        for runtime in self.runtimes[1:]:
            await self.end(runtime)
        if len(self.runtimes[0].specs) < 4:
            await self.end(self.runtimes[0])
            await self.begin()
        for _ in range(10):
            for _ in range(400):
                await self.clock.advance(5)
                if not await self.left():
                    return
            # A handler is paused by what never succeeds, with nothing else to try: until its age is used up.
            assert await self.is_blocked(), f"not at rest: {await self.left()}"
            await self.clock.jump(RETRY.max_age.total_seconds())
        raise AssertionError(f"not at rest after days: {await self.left()}")

    async def is_blocked(self) -> bool:
        """Whether all that is to be tried again, by handlers that are paused, is what never succeeds."""
        waiting = await self.rows(
            "SELECT h.name, h.paused_until_ms, l.type, json_extract(l.data, '$.n') FROM antiphon_deliveries AS d"
            " JOIN antiphon_handlers AS h ON h.id = d.handler_id JOIN antiphon_log AS l ON l.seq = d.seq"
            " WHERE d.status = 'RETRY'"
        )
        bad = [
            paused is not None and self.fate(name.partition(".")[2], n if type_ == "Ordered" else -n - 1) == "fail"
            for name, paused, type_, n in waiting
        ]
        return bool(bad) and all(bad)

    async def rows(self, sql: str) -> list[tuple[Any, ...]]:
        """Rows of all stores."""
        found: list[tuple[Any, ...]] = []
        for store in dict.fromkeys(self.runtimes[0].stores.values()):
            found += [tuple(row) for row in await store.fetch_all(sql)]
        return found

    async def left(self) -> list[tuple[Any, ...]]:
        """What is not over: deliveries, timers, events on their way."""
        left = await self.rows(
            "SELECT HANDLER, STATUS FROM antiphon_events WHERE STATUS NOT IN ('COMPLETED', 'ERROR', 'FAILED')"
        )
        left += await self.rows("SELECT id, due_ms FROM antiphon_timers")
        arrived = await self.rows(
            "SELECT json_extract(l.data, '$.n') FROM antiphon_events AS e JOIN antiphon_log AS l"
            " ON l.id = e.EVENT_ID WHERE e.HANDLER = 'mail.mail'"
        )
        bills = await self.rows("SELECT n FROM effects WHERE handler = 'bill'")
        counted = await self.rows("SELECT EVENT_ID FROM antiphon_events WHERE HANDLER = 'both.count'")
        if len(arrived) < len(self.keys) or len(counted) < len(bills):
            left.append(("on the way", len(self.keys) - len(arrived), len(bills) - len(counted)))
        return left

    # ------------------------------------------------------------------ what must be true then

    async def audit(self) -> None:
        """Each event took effect once or is one dead letter, in order, and every table agrees."""
        effects: dict[str, list[int]] = {handler: [] for handler in HANDLERS}
        for handler, _, n in await self.rows("SELECT handler, key, n FROM effects ORDER BY id"):
            effects[handler].append(n)
        dead = await self.rows(
            "SELECT h.name, d.status, l.type, json_extract(l.data, '$.n'), d.attempts, d.reason"
            " FROM antiphon_deliveries AS d JOIN antiphon_handlers AS h ON h.id = d.handler_id"
            " JOIN antiphon_log AS l ON l.seq = d.seq"
        )
        set_aside = defaultdict(dict)  # type: ignore[var-annotated]
        for name, status, type_, n, attempts, reason in dead:
            assert status in ("ERROR", "FAILED"), (name, status, n)
            assert attempts <= RETRY.attempts, (name, n, attempts)
            set_aside[name.partition(".")[2]][n if type_ == "Ordered" else -n - 1] = (status, reason)
        billed = [-n - 1 for n in effects["bill"]]
        owed = {"bill": list(self.keys), "mail": list(self.keys), "both": [*self.keys, *billed], "count": billed}
        for handler, numbers in owed.items():
            found = Counter(effects[handler])
            assert all(count == 1 for count in found.values()), f"{handler}: twice {found.most_common(3)}"
            both = found.keys() & set_aside[handler].keys()
            assert not both, f"{handler}: took effect and is a dead letter: {both}"
            assert sorted([*found, *set_aside[handler]]) == sorted(numbers), handler
            for n in numbers:
                self.check_fate(handler, n, set_aside[handler].get(n))
            self.check_order(handler, effects[handler])
        await self.check_tables()

    def check_fate(self, handler: str, n: int, dead: tuple[str, str] | None) -> None:
        """What it came to is what it should."""
        fate = self.fate(handler, n)
        if fate == "reject":
            assert dead is not None, (handler, n)
            assert dead[0] == "ERROR" or self.had_outage
        elif fate == "fail":
            assert dead is not None, (handler, n)
            assert dead[0] == "FAILED"
        elif dead is not None:
            # Failures before the pause count too; and an age can be used up while a handler is paused.
            assert self.had_outage or "age" in dead[1] or "after the first attempt" in dead[1], (handler, n, dead)

    def check_order(self, handler: str, numbers: list[int]) -> None:
        """Per key and type, in the order of publishing."""
        if handler == "both":
            self.check_order("both of Ordered", [n for n in numbers if n >= 0])
            return
        for key in {*self.keys.values()} - {None}:
            mine = [n if n >= 0 else -n - 1 for n in numbers]
            mine = [n for n in mine if self.keys[n] == key and n not in self.delayed]
            assert mine == sorted(mine), f"{handler}: order of {key!r}: {mine}"

    async def check_tables(self) -> None:
        """Rows, cursors and the view agree; nothing is left running, parked or leased by the dead."""
        assert await self.rows(f"SELECT * FROM antiphon_deliveries WHERE status IN {_OPEN}") == []
        for handler, status, count in await self.rows(
            "SELECT HANDLER, STATUS, count(*) FROM antiphon_events GROUP BY 1, 2"
        ):
            name = handler.partition(".")[2]
            effects = await self.rows(f"SELECT count(*) FROM effects WHERE handler = '{name}'")
            if status == "COMPLETED":
                assert count == sum(each for (each,) in effects), (handler, count, effects)
        behind = await self.rows(
            "SELECT h.name FROM antiphon_handlers AS h JOIN antiphon_subscriptions AS s ON s.handler_id = h.id"
            " JOIN antiphon_log AS l ON l.type = s.type AND l.seq > h.seq AND l.seq > s.start_seq"
            " AND l.bucket & (h.parts - 1) = h.part"
        )
        assert behind == []


def _number(event: Ordered | Billed) -> int:
    return event.n if isinstance(event, Ordered) else -event.n - 1


async def _nothing(lease: object) -> None:
    """What a process that dies gives back."""


async def live(data: Path, seed: int, steps: int) -> int:
    """One life; returns how many events it had."""
    life = Life(data, seed)
    try:
        await life.begin()
        number = 0
        for _ in range(steps):
            number = await life.step(number)
        await life.come_to_rest()
        await life.audit()
        return number
    finally:
        for runtime in list(life.runtimes):
            with suppress(Exception):
                await life.end(runtime)


@pytest.mark.parametrize("seed", range(8))
async def test_a_random_life(tmp_path: Path, seed: int) -> None:
    """Failures, refusals, outages, stops, deaths, clocks that jump, two processes: each event ends once, in order."""
    await live(tmp_path, seed, steps=60)


@pytest.mark.soak
async def test_many_random_lives(tmp_path: Path) -> None:
    """The same, three hundred times and longer."""
    run: Callable[[Path, int, int], Awaitable[int]] = live
    events = 0
    for seed in range(1_000, 1_300):
        folder = tmp_path / str(seed)
        folder.mkdir()
        events += await run(folder, seed, 150)
    print(f"{events} events in 300 lives")
