"""Neighbours, which know other handlers or stop; events that stay inside a service; suspects, which run alone."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from antiphon import Event, Service, Transaction
from antiphon.errors import StoreFull
from antiphon.store.sqlite.store import SqliteStore
from antiphon.store.sqlite.unit import SqliteUnit
from antiphon.testing.clock import VirtualClock
from tests.runtime.kit import running
from tests.runtime.test_handling import NO_JITTER, Ordered, shop

pytestmark = pytest.mark.anyio


def letters(*names: str) -> Service:
    """A service with a handler for each name."""
    service = Service("svc")
    for name in names:

        async def work(event: Ordered) -> None:
            """Nothing to do."""

        service.on(Ordered, name=name, retry=NO_JITTER)(work)
    return service


async def test_a_handler_that_a_neighbour_does_not_know_is_not_left_alone(tmp_path: Path) -> None:
    """During a deployment old and new code run side by side; what only the new one has is run by the new one."""
    clock = VirtualClock()
    async with running(tmp_path, shop(), letters("a"), clock=clock) as old:
        async with running(tmp_path, shop(), letters("a", "b", "c", "d"), clock=clock) as new:
            await old.publish("shop", Ordered("x", 1))
            await clock.advance(20)
            held = [*old.runtime.workers, *new.runtime.workers]
            assert sorted(held) == ["svc.a", "svc.b", "svc.c", "svc.d"]
            await clock.advance(30)
            assert sorted([*old.runtime.workers, *new.runtime.workers]) == sorted(held)
        await clock.advance(5)
        assert list(old.runtime.workers) == ["svc.a"]


async def test_a_stop_suspects_nobody(tmp_path: Path) -> None:
    """Started and stopped again and again, at once or while leases are taken: no strike is counted."""
    clock = VirtualClock()
    for pause in (0, 0, 1, 0):
        async with running(tmp_path, shop(), letters("a", "b"), clock=clock) as world:
            await world.runtime.publish("shop", Ordered("x", pause))
            if pause:
                await clock.advance(pause)
    async with running(tmp_path, shop(), clock=clock) as world:
        owners = await world.rows("SELECT owner, strikes FROM antiphon_handlers")
        assert owners == [(None, 0), (None, 0)]


async def test_a_lease_that_is_taken_while_stopping_starts_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The grace may be over by then, and nobody would end what such a worker began."""
    clock, calls = VirtualClock(), []
    service = Service("svc")

    @service.on(Ordered, retry=NO_JITTER)
    async def work(event: Ordered) -> None:
        calls.append(event.n)
        await clock.sleep(3_600)

    real = SqliteStore.acquire
    asked, stopping = asyncio.Event(), asyncio.Event()

    async def acquire(self: SqliteStore, handler: str, owner: str) -> Any:
        asked.set()
        await stopping.wait()
        return await real(self, handler, owner)

    monkeypatch.setattr(SqliteStore, "acquire", acquire)
    async with running(tmp_path, shop(), service, clock=clock) as world:
        await world.runtime.publish("shop", Ordered("a", 1))
        await asyncio.wait_for(asked.wait(), 5)
        stop = asyncio.ensure_future(world.runtime.stop(grace_s=0))
        await clock.rest()
        stopping.set()
        await asyncio.wait_for(stop, 5)
        assert calls == []


class Counted(Event, key="customer", domain=True):
    customer: str


@pytest.mark.parametrize("own_stores", [False, True])
async def test_a_domain_event_stays_inside_its_service(tmp_path: Path, own_stores: bool) -> None:
    """In whatever layout: a handler of another service does not get it, and is not shown as owing it."""
    inside, outside = Service("inside"), Service("outside")
    seen: list[str] = []

    @inside.on(Ordered)
    async def note(event: Ordered) -> Counted:
        return Counted(event.customer)

    @inside.on(Counted)
    async def mine(event: Counted) -> None:
        seen.append("mine")

    @outside.on(Counted)
    async def theirs(event: Counted) -> None:
        seen.append("theirs")

    async with running(tmp_path, inside, outside, own_stores=own_stores) as world:
        await world.runtime.publish("inside", Ordered("a", 1))
        await world.clock.advance(2)
        assert seen == ["mine"]
        for store in set(world.runtime.stores.values()):
            assert await store.fetch_all("SELECT 1 FROM antiphon_events WHERE HANDLER = 'outside.theirs'") == []


@pytest.mark.parametrize("key", ["a\0b", "\0", "x" * 1_024, "ключ 🔑", "a'b\"c", "[]", " "])
async def test_any_text_can_be_a_key(tmp_path: Path, key: str) -> None:
    """However it is written, later events of a key wait for an earlier one that failed."""
    service = Service("svc")
    seen: list[int] = []
    failing = [True]

    @service.on(Ordered, retry=NO_JITTER)
    async def work(event: Ordered) -> None:
        if event.n == 0 and failing:
            raise RuntimeError("not yet")
        seen.append(event.n)

    async with running(tmp_path, shop(), service) as world:
        await world.publish("shop", Ordered(key, 0), Ordered(key, 1))
        await world.publish("shop", Ordered(key, 2), Ordered("other", 9))
        failing.clear()
        await world.clock.advance(30)
    assert seen == [9, 0, 1, 2]


# --- suspects --------------------------------------------------------------------------------------------

ALONE = """
import asyncio, os, signal, sys
from pathlib import Path
from antiphon import App, Event, Service

class Work(Event):
    n: int

class Call(Event):
    n: int

svc = Service("svc")
working, started = asyncio.Event(), asyncio.Event()

@svc.on(Work)
async def work(event: Work) -> None:
    await asyncio.sleep(0)
    working.set()
    await started.wait()
    await asyncio.get_running_loop().create_future()

@svc.on(Call)
async def call(event: Call) -> None:
    await asyncio.sleep(0)
    started.set()
    await asyncio.get_running_loop().create_future()

async def main() -> None:
    app = App(svc, name="app")
    async with app.run_in(Path(sys.argv[1])):
        await app.publish(Work(n=1))
        await working.wait()
        await app.publish(Call(n=1))
        await started.wait()
        print("ready", flush=True)
        await asyncio.get_running_loop().create_future()

asyncio.run(main())
"""


class Work(Event):
    n: int


class Call(Event):
    n: int


RUNNING = "SELECT count(*) FROM antiphon_deliveries WHERE status = 'IN_PROGRESS'"


async def test_a_suspect_shares_the_process_with_no_outside_call(tmp_path: Path) -> None:
    """What ran when a process died is run alone: another's call that is under way has ended before, none starts."""
    script = tmp_path / "victim.py"
    script.write_text(ALONE)
    with subprocess.Popen([sys.executable, script, tmp_path], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        os.kill(process.pid, signal.SIGKILL)
    busy: set[str] = set()
    together: list[set[str]] = []

    def service() -> Service:
        made = Service("svc")

        async def attempt(name: str) -> None:
            busy.add(name)
            together.append(set(busy))
            for _ in range(20):
                await asyncio.sleep(0)
            busy.discard(name)

        @made.on(Work)
        async def work(event: Work) -> None:
            await attempt("work")

        @made.on(Call)
        async def call(event: Call) -> None:
            await attempt("call")

        return made

    clock = VirtualClock()
    async with running(tmp_path, service(), clock=clock) as world:
        suspects = await world.rows(
            "SELECT name FROM antiphon_attempts JOIN antiphon_handlers AS h ON h.id = handler_id"
            " WHERE outcome = 'crashed' ORDER BY 1"
        )
        assert suspects == [("svc.call",), ("svc.work",)]
        await world.until(lambda: len(together) >= 2)
    assert all(len(each) == 1 for each in together), together


async def test_a_suspect_that_cannot_be_settled_is_given_back_before_another_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its row says that it runs. Whoever ran beside it and killed the process would have it blamed too."""
    script = tmp_path / "victim.py"
    script.write_text(ALONE)
    with subprocess.Popen([sys.executable, script, tmp_path], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        os.kill(process.pid, signal.SIGKILL)
    made, recorded, troubles = Service("svc"), list[int](), [StoreFull("the disk is full") for _ in range(3)]

    def fails_at_first(method: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
        async def fails(*given: Any) -> None:
            if troubles and recorded:
                raise troubles.pop()
            await method(*given)

        return fails

    @made.on(Work)
    async def work(event: Work, tx: Transaction) -> None:
        recorded.append(await tx.fetch_value(RUNNING))

    @made.on(Call)
    async def call(event: Call, tx: Transaction) -> None:
        recorded.append(await tx.fetch_value(RUNNING))

    monkeypatch.setattr(SqliteUnit, "settle", fails_at_first(SqliteUnit.settle))
    monkeypatch.setattr(SqliteStore, "release", fails_at_first(SqliteStore.release))
    async with running(tmp_path, made, clock=VirtualClock()) as world:
        await world.until(lambda: len(recorded) >= 3)
    assert set(recorded) == {1}, recorded


async def test_a_suspect_that_always_fails_does_not_keep_its_handler_paused(tmp_path: Path) -> None:
    """While a handler is paused, suspects take their turn with all that waits: one of the others may succeed."""
    clock, down = VirtualClock(), True

    def billing(*, hangs: bool) -> Service:
        made = Service("billing")

        @made.on(Ordered, retry=NO_JITTER)
        async def bill(event: Ordered) -> None:
            if hangs:
                await clock.sleep(3_600)
            if down or event.n == 0:
                raise ConnectionError("the ledger is down")

        return made

    async with running(tmp_path, shop(), billing(hangs=True), clock=clock) as world:
        await world.publish("shop", Ordered("c0", 0))
        world.store.release = nothing  # as when the process dies
    async with running(tmp_path, shop(), billing(hangs=False), clock=clock) as world:
        assert await world.rows("SELECT suspect FROM antiphon_deliveries") == [(1,)]
        await world.publish("shop", *(Ordered(f"c{n}", n) for n in range(1, 6)))
        await clock.advance(60)
        assert await world.rows("SELECT count(*) FROM antiphon_handlers WHERE paused_until_ms IS NOT NULL") == [(1,)]
        down = False
        await clock.advance(300)
        assert sorted((await world.statuses("billing.bill")).values()) == ["COMPLETED"] * 5 + ["FAILED"]


async def nothing(lease: object) -> None:
    """What a process that dies gives back."""
