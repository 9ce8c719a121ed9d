"""Channels to each foreign system that there is: what comes in is handled once, what goes out is there once by its id;
also when the line is cut, and when the process is killed at any moment."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from antiphon.demo.fleet import Fleet
from antiphon.runtime.runtime import Runtime
from tests.channel.foreign import FOREIGN, Foreign, foreign
from tests.channel.kit import environment, once_by_id, once_in_order, relay_app, seen_at, seen_in, until

pytestmark = pytest.mark.anyio

MANY, KILLS = 300, 6
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


async def test_a_killed_process_loses_nothing(system: Foreign, tmp_path: Path) -> None:
    """``kill -9`` while messages come and go, and another start; nothing is lost, or handled twice."""
    chance = random.Random(SEED)
    data = tmp_path / "data"
    out, name = outgoing(system), system.app
    told = environment(url=system.url, places=system.places, out=out, name=name, options=system.options)
    members = ["relay", "upstream", *(["downstream"] if system.out else [])]
    fleet = Fleet("tests.channel.member:app", data, {"all": members}, told)
    each = MANY // KILLS
    try:
        for kill in range(KILLS):
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


async def has_seen(runtime: Runtime, count: int) -> bool:
    """Whether the relay has noted so many."""
    return len(await seen_in(runtime)) >= count


def has_noted(data: Path, count: int) -> bool:
    """The same of a relay in other processes."""
    return len(seen_at(data)) >= count


async def has_taken(system: Foreign, count: int) -> bool:
    """Whether so many have come out."""
    return len(once_by_id(await system.taken())) >= count
