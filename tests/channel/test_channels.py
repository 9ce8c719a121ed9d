"""Channels to each foreign system that there is: what comes in is handled once, what goes out is there once by its id;
also when the line is cut, and when the process is killed at any moment."""

from __future__ import annotations

import importlib
import json
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from antiphon import App, Service
from antiphon.channel import declaration
from antiphon.demo.fleet import Fleet
from antiphon.errors import BusError, LeaseLost, StoreError
from antiphon.runtime import channels
from antiphon.runtime.clock import SystemClock
from antiphon.runtime.runtime import Runtime
from antiphon.store.desk import Desk
from antiphon.store.sqlite.store import SqliteStore
from tests.channel.foreign import FOREIGN, Folder, Foreign, RabbitMQ, RedisStreams, foreign
from tests.channel.kit import Got, Passed, environment, once_by_id, once_in_order, relay_app, seen_at, seen_in, until

pytestmark = pytest.mark.anyio

MANY = 300
SEED = 20


def named(kind: type[Foreign]) -> str:
    """What a test's id calls a system."""
    return kind.name


SERVERS = pytest.mark.parametrize("system", [kind for kind in FOREIGN if kind.is_server], ids=named, indirect=True)


@pytest.fixture(params=FOREIGN, ids=named)
async def system(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Foreign]:
    """A system that is nobody else's."""
    async with foreign(request.param, tmp_path) as ready:
        yield ready


def outgoing(system: Foreign, url: str | None = None) -> tuple[str, str] | None:
    """Where the relay sends what it passes on."""
    return (url or system.url, system.out) if system.out else None


@pytest.mark.parametrize("own_stores", [False, True], ids=["one store", "own stores"])
async def test_what_comes_is_handled_once_and_passed_on(system: Foreign, tmp_path: Path, own_stores: bool) -> None:
    """Everything that was there before, and comes while the app runs, is handled in order and goes out with its id."""
    app = relay_app(
        system.url, system.places, outgoing(system), name=system.app, options=system.options, own_stores=own_stores
    )
    await system.put(range(50))
    for expected, more in ((50, range(50, 100)), (100, range(100, 120))):
        async with app.run_in(tmp_path / "data") as runtime:
            await until(has_seen, runtime, expected)
            await system.put(more)
            await until(has_seen, runtime, more.stop)
            once_in_order(await seen_in(runtime), range(more.stop))
            if system.out:
                await until(has_taken, system, more.stop)
    if system.out:
        once_in_order(once_by_id(await system.taken()), range(120))


async def test_what_cannot_be_read_is_set_aside_and_delays_nobody(system: Foreign, tmp_path: Path) -> None:
    """Between others, bytes that are no event become a dead letter with these very bytes."""
    app = relay_app(system.url, system.places, outgoing(system), name=system.app, options=system.options)
    await system.put(range(3))
    await system.put_raw(b'{"n": "what?"')
    await system.put(range(3, 6))
    async with app.run_in(tmp_path / "data") as runtime:
        await until(has_seen, runtime, 6)
        once_in_order(await seen_in(runtime), range(6))
        rows = await runtime.store_of("upstream").fetch_all(
            "SELECT l.data, d.status FROM antiphon_deliveries AS d JOIN antiphon_log AS l ON l.seq = d.seq"
        )
        assert [status for _, status in rows] == ["ERROR"]
        assert bytes(rows[0][0]) == b'{"n": "what?"' or not system.has_bytes


@SERVERS
async def test_a_cut_line_loses_nothing(system: Foreign, tmp_path: Path) -> None:
    """The line breaks in the midst of what is on its way, both ways, several times."""
    chance = random.Random(SEED)
    async with system.line() as line:
        out = outgoing(system, line.url)
        app = relay_app(line.url, system.places, out, name=system.app, options=system.options)
        async with app.run_in(tmp_path / "data") as runtime:
            for start in range(0, MANY, 50):
                await system.put(range(start, start + 50))
                least = start + chance.randrange(50)
                await until(has_seen, runtime, least)
                await line.cut()
                await line.mend()
            await until(has_seen, runtime, MANY)
            if system.out:
                await until(has_taken, system, MANY)
            once_in_order(await seen_in(runtime), range(MANY))
    if system.out:
        once_in_order(once_by_id(await system.taken()), range(MANY))


@pytest.mark.parametrize("kills", [3, pytest.param(6, marks=pytest.mark.soak)])
async def test_a_killed_process_loses_nothing(system: Foreign, tmp_path: Path, kills: int) -> None:
    """``kill -9`` while messages come and go, and another start; nothing is lost, or handled twice."""
    chance = random.Random(SEED)
    data = tmp_path / "data"
    out, name = outgoing(system), system.app
    told = environment(url=system.url, places=system.places, out=out, name=name, options=system.options)
    members = ["relay", "upstream", *(["downstream"] if system.out else [])]
    fleet = Fleet("tests.channel.member:app", data, {"all": members}, told)
    each = MANY // kills
    try:
        for kill in range(kills):
            await fleet.start(["all"])
            await system.put(range(kill * each, (kill + 1) * each))
            least = kill * each + chance.randrange(1, each)
            await until(has_noted, data, least)
            await fleet.kill(["all"])
        await fleet.start(["all"])
        await until(has_noted, data, MANY)
        if system.out:
            await until(has_taken, system, MANY)
        await fleet.ready()
        await fleet.stop()
    finally:
        await fleet.end()
    once_in_order(seen_at(data), range(MANY))
    if system.out:
        once_in_order(once_by_id(await system.taken()), range(MANY))


STEPS = ("before the commit", "before the acknowledgement", "before sending", "after sending")


class Trouble:
    """Breaks at a step, each second time that it is taken."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
        self.times = 0
        if step == "before the commit":
            self._wrap(monkeypatch, channels, "_keep", StoreError("the disk is full"))
        elif step == "before the acknowledgement":
            for module in ("rabbitmq", "redis", "nats", "kafka", "mqtt", "folder", "table"):
                source = importlib.import_module(f"antiphon.channel.{module}").ChannelSource
                self._wrap(monkeypatch, source, "acknowledge", BusError("the line is cut"))
        else:
            is_after = step == "after sending"
            for module in ("rabbitmq", "redis", "nats", "kafka", "folder"):
                sink = importlib.import_module(f"antiphon.channel.{module}").ChannelSink
                self._wrap(monkeypatch, sink, "send", BusError("the line is cut"), is_after=is_after)

    def _wrap(
        self, monkeypatch: pytest.MonkeyPatch, owner: object, name: str, error: Exception, is_after: bool = False
    ) -> None:
        real = getattr(owner, name)

        async def breaks(*arguments: Any) -> Any:
            self.times += 1
            if self.times % 2 and not is_after:
                raise error
            result = await real(*arguments)
            if self.times % 2:
                raise error
            return result

        monkeypatch.setattr(owner, name, breaks)


@pytest.mark.parametrize("step", STEPS)
async def test_trouble_at_each_step_loses_nothing(
    system: Foreign, tmp_path: Path, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever was done before a step that broke is done again, or not, and makes no difference."""
    if step in STEPS[2:] and not system.out:
        return  # by this system nothing goes out
    trouble = Trouble(monkeypatch, step)
    app = relay_app(system.url, system.places, outgoing(system), name=system.app, options=system.options)
    async with app.run_in(tmp_path / "data") as runtime:
        for start in range(0, 60, 20):
            await system.put(range(start, start + 20))
            await until(has_seen, runtime, start + 20)
            if system.out:
                await until(has_taken, system, start + 20)
        once_in_order(await seen_in(runtime), range(60))
    assert trouble.times > 2
    if system.out:
        once_in_order(once_by_id(await system.taken()), range(60))


@pytest.mark.parametrize("system", [RabbitMQ, RedisStreams, Folder], ids=named, indirect=True)
async def test_another_process_takes_over(system: Foreign, tmp_path: Path) -> None:
    """Of two processes that run everything, one moves the messages; when it is killed, the other one does."""
    data = tmp_path / "data"
    out, name = outgoing(system), system.app
    told = environment(url=system.url, places=system.places, out=out, name=name, options=system.options)
    services = ["relay", "upstream", "downstream"]
    fleet = Fleet("tests.channel.member:app", data, {"one": services, "two": services}, told)
    try:
        await fleet.start(["one"])
        await fleet.ready()
        await fleet.start(["two"])
        await fleet.ready()
        for n, victim in enumerate(("one", "two", "one")):
            await system.put(range(n * 40, n * 40 + 40))
            await until(has_noted, data, n * 40 + 5)
            await fleet.kill([victim])
            await until(has_noted, data, n * 40 + 40)
            await fleet.start([victim])
            await fleet.ready()
        await until(has_taken, system, 120)
        await fleet.stop()
    finally:
        await fleet.end()
    once_in_order(seen_at(data), range(120))
    once_in_order(once_by_id(await system.taken()), range(120))


async def test_who_has_lost_the_lease_takes_nothing(tmp_path: Path) -> None:
    """A process that was taken for dead goes on with what it has in its hands, and none of it is kept."""
    async with foreign(Folder, tmp_path) as system:
        app = relay_app(system.url, system.places, name=system.app)
        engine = SqliteStore(
            tmp_path / "up.db", clock=SystemClock(), owner="one", tables={"upstream": declaration.TABLES}
        )
        await engine.open()
        (spec,) = declaration.service_of(app.channels["upstream"]).handlers
        await engine.register([spec])
        lost = await engine.acquire(spec.name, "one")
        assert lost is not None
        await engine.release(lost)
        assert await engine.acquire(spec.name, "two") is not None
        await system.put(range(3))
        with pytest.raises(LeaseLost):
            await channels.Receiver(spec, engine, SystemClock(), 10_000, is_alone=True).run(lost)
        assert await engine.head() == 0
        assert await engine.fetch_all("SELECT * FROM channel_notes") == []
        await engine.close()


async def test_what_never_can_be_sent_is_set_aside_and_goes_when_it_is_mended(tmp_path: Path) -> None:
    """An encoder that fails on one event delays no other; once it is mended, a redrive sends the event."""
    broken = [True]

    def encode(passed: Passed) -> dict[str, int]:
        if broken and passed.n == 3:
            raise ValueError("three is none")
        return {"n": passed.n}

    relay = Service("relay")

    @relay.on(Got)
    async def take(got: Got) -> Passed:
        return Passed(n=got.n, about=got.about)

    app = App(relay, name="sets_aside")
    app.channel(f"folder://{tmp_path / 'out'}", name="down", outbound={"out": Passed}, encode=encode)
    async with app.run_in(tmp_path / "data") as runtime:
        for n in range(6):
            await app.publish(Got(n=n, about="k"), service="relay")
        await until(has_lines, tmp_path / "out" / "out", [0, 1, 2, 4, 5])
        desk = Desk(runtime.store_of("down"), app.event_types)
        (dead,) = await until(desk.dead.list)
        assert (dead.handler, dead.status) == ("down.forward", "ERROR")
        broken.clear()
        await desk.dead.redrive_one(dead.event_id)
        await until(has_lines, tmp_path / "out" / "out", [0, 1, 2, 4, 5, 3])


def has_lines(path: Path, numbers: list[int]) -> bool:
    """Whether the file holds just these."""
    return path.exists() and [json.loads(line)["n"] for line in path.read_text().splitlines()] == numbers


async def has_seen(runtime: Runtime, count: int) -> bool:
    """Whether the relay has noted so many."""
    return len(await seen_in(runtime)) >= count


def has_noted(data: Path, count: int) -> bool:
    """The same of a relay in other processes."""
    return len(seen_at(data)) >= count


async def has_taken(system: Foreign, count: int) -> bool:
    """Whether so many have come out."""
    return len(once_by_id(await system.taken())) >= count
