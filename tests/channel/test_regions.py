"""Regions of one app: events cross once and never loop, keep their ids and their order by key; what is written in
several regions at once is the same in all of them in the end."""

from __future__ import annotations

import json
import random
import sqlite3
import uuid
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, closing
from itertools import permutations
from pathlib import Path
from typing import Any

import aiormq
import httpx
import nats
import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.asyncio import Redis

from antiphon import App
from antiphon.demo.fleet import Fleet
from antiphon.policy import regions
from antiphon.runtime.clock import SystemClock
from antiphon.runtime.runtime import Runtime
from antiphon.testing.line import line_to
from tests.channel.foreign import listening
from tests.channel.kit import until
from tests.channel.region import Change, CustomerChanged, Watched, region_app
from tests.store.postgres import database

pytestmark = pytest.mark.anyio

SEED = 7
HEARD = "SELECT count(*), count(DISTINCT name) FROM heard"
NAMES = st.sampled_from(["eu", "us", "asia", "sa"])


@pytest.fixture(params=["nats", "redis", "rabbitmq"])
async def joint(request: pytest.FixtureRequest) -> AsyncIterator[tuple[str, str]]:
    """A server that joins regions, and a name that no other app has there."""
    url, name = await listening(request.param), f"geo_{uuid.uuid4().hex[:10]}"
    yield url, name
    if request.param == "redis":
        client: Any = Redis.from_url(url)
        await client.delete(*[key async for key in client.scan_iter(f"{name}.*", count=1000)] or ["none"])
        await client.aclose()
    elif request.param == "rabbitmq":
        broker = await aiormq.connect(url)
        channel = await broker.channel()
        for one, other in permutations(("eu", "us", "asia"), 2):
            await channel.queue_delete(f"{name}.{one}.{other}")
        await broker.close()
    else:
        connection = await nats.connect(url)
        for stream in await connection.jetstream().streams_info():
            if (stream.config.name or "").startswith(name):
                await connection.jetstream().delete_stream(stream.config.name or "")
        await connection.close()


@pytest.fixture(params=["files", "postgres"])
def stores(request: pytest.FixtureRequest) -> Iterator[list[str | None]]:
    """Where each of two regions has its stores: in files (None), or in a database of its own."""
    with ExitStack() as stack:
        is_file = request.param == "files"
        yield [None if is_file else stack.enter_context(database()) for _ in range(2)]


@asynccontextmanager
async def running(
    apps: Sequence[App], data: Path, stores: Sequence[str | None] | None = None
) -> AsyncIterator[list[Runtime]]:
    """Each app in a directory of its own, or with its stores in a database."""
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(app.run_in(data / f"r{n}", store=store))
            for n, (app, store) in enumerate(zip(apps, stores or [None] * len(apps), strict=True))
        ]


async def state(runtime: Runtime) -> list[tuple[Any, ...]]:
    """What a region has kept."""
    rows = await runtime.store_of("crm").fetch_all("SELECT kind, about, stamp, data FROM replicas ORDER BY kind, about")
    return [tuple(row) for row in rows]


async def events(runtime: Runtime) -> list[tuple[str, str, str]]:
    """Id, customer and source of the changes in a region's log, in its order."""
    found = await runtime.store_of("crm").read_log(0, 10_000)
    return [
        (each.envelope.id, each.envelope.key, each.envelope.service)
        for each in found
        if each.envelope.type == "CustomerChanged"
    ]


async def are_the_same(runtimes: list[Runtime], count: int) -> bool:
    """Whether all regions have so many changes, and handled them, and the same state."""
    for runtime in runtimes:
        heard = await runtime.store_of("crm").fetch_all("SELECT count(*) FROM heard")
        if heard[0][0] < count:
            return False
    states = [await state(runtime) for runtime in runtimes]
    return all(each == states[0] for each in states)


async def test_events_cross_once_with_their_ids_and_in_order(joint: tuple[str, str], tmp_path: Path) -> None:
    """Each region has each event once, under one id, those of a key from one region in their order."""
    url, name = joint
    apps = [region_app(name, "eu", {"us": url}), region_app(name, "us", {"eu": url})]
    async with running(apps, tmp_path) as (eu, us):
        for n in range(60):
            where = (apps[0], apps[1])[n % 2]
            await where.publish(CustomerChanged(customer=f"c{n % 3}", name=f"n{n}"), service="crm")
        await until(are_the_same, [eu, us], 60)
        in_eu, in_us = await events(eu), await events(us)
        assert len({event_id for event_id, _, _ in in_eu}) == len(in_eu) == 60
        assert sorted((event_id, key) for event_id, key, _ in in_eu) == sorted((each, key) for each, key, _ in in_us)
        assert {service for _, _, service in in_eu} == {"crm", "region://us/crm"}
        for here, there, source in ((in_us, in_eu, "region://us/crm"), (in_eu, in_us, "region://eu/crm")):
            for key in ("c0", "c1", "c2"):
                born = [event_id for event_id, about, service in here if about == key and service == "crm"]
                assert born == [event_id for event_id, about, service in there if about == key and service == source]


async def test_what_is_written_in_two_regions_while_the_line_is_cut_converges(
    joint: tuple[str, str], stores: list[str | None], tmp_path: Path
) -> None:
    """Both write on, each for itself, wherever their stores lie; afterwards both have the same, each change once, by
    the last writer and by the app's own policy."""
    url, name = joint
    chance = random.Random(SEED)
    async with line_to(url) as line:
        apps = [region_app(name, "eu", {"us": url}), region_app(name, "us", {"eu": line.url})]
        async with running(apps, tmp_path, stores) as runtimes:
            for cut in range(3):
                if cut:
                    await line.cut()
                for n in range(20):
                    for app in chance.sample(apps, 2):
                        await app.publish(Change(customer=f"c{n % 4}", name=f"{[*app.channels]}{cut}{n}"))
                        await app.publish(Watched(person="p", reasons=[f"{chance.randrange(50)}"]), service="crm")
                if cut:
                    await line.mend()
                await until(are_the_same, runtimes, 40 * (cut + 1))
            for runtime in runtimes:
                assert [tuple(row) for row in await runtime.store_of("crm").fetch_all(HEARD)] == [(120, 120)]
            (watched,) = [json.loads(row[3]) for row in await state(runtimes[0]) if row[0] == "crm.watchlist"]
        assert line.broken > 0
    assert watched["reasons"] == sorted(set(watched["reasons"]))
    assert len(watched["reasons"]) > 20
    if stores[0] is not None:
        one, other = (in_database(store or "", "SELECT kind, about, stamp, data FROM crm.replicas") for store in stores)
        assert one == other
        assert len(one) == 5


class Behind(SystemClock):
    """The clock of a machine that is an hour behind."""

    def now_ms(self) -> int:
        """An hour ago."""
        return super().now_ms() - 3_600_000


async def test_who_has_seen_a_state_wins_over_it_whatever_the_clocks_say(
    joint: tuple[str, str], tmp_path: Path
) -> None:
    """A change that is made in sight of another is later than it, also on a machine whose clock is not."""
    url, name = joint
    eu, us = region_app(name, "eu", {"us": url}), region_app(name, "us", {"eu": url})
    async with eu.run_in(tmp_path / "eu") as there, us.run_in(tmp_path / "us", clock=Behind()) as here:
        await eu.publish(Change(customer="c", name="first"))
        await until(are_the_same, [there, here], 1)
        await us.publish(Change(customer="c", name="second"))
        await until(are_the_same, [there, here], 2)
        assert [json.loads(row[3])["name"] for row in await state(there)] == ["second"]


async def test_regions_whose_processes_are_killed_converge(joint: tuple[str, str], tmp_path: Path) -> None:
    """``kill -9`` on either side in the midst of it: nothing is lost, nothing comes twice, both are the same."""
    url, name = joint
    chance = random.Random(SEED)
    told = {
        "eu": {"name": name, "region": "eu", "peers": {"us": url}},
        "us": {"name": name, "region": "us", "peers": {"eu": url}},
    }
    members = {"eu": ["crm", "to_us"], "us": ["crm", "to_eu"]}
    fleets = {
        region: Fleet(
            "tests.channel.region:app", tmp_path / region, {region: members[region]}, {"REGION": json.dumps(about)}
        )
        for region, about in told.items()
    }
    count = 0
    try:
        for region, fleet in fleets.items():
            await fleet.start([region])
            await fleet.ready()
        for _ in range(4):
            for region in fleets:
                count += 1
                await write(fleets[region].url(region) or "", range(count * 10, count * 10 + 10))
            await until(have_heard, tmp_path, (count - 2) * 10 + chance.randrange(1, 10))
            victim = chance.choice(list(fleets))
            await fleets[victim].kill([victim])
            await fleets[victim].start([victim])
            await fleets[victim].ready()
        await until(have_heard, tmp_path, count * 10)
        await until(agree, tmp_path)
        for region, fleet in fleets.items():
            assert len(heard(tmp_path / region)) == len(set(heard(tmp_path / region))) == count * 10
            await fleet.stop()
    finally:
        for fleet in fleets.values():
            await fleet.end()


async def test_three_regions_in_a_ring_do_not_loop(joint: tuple[str, str], tmp_path: Path) -> None:
    """Where regions send on what came from others, each still has each event once, and then all is quiet."""
    url, name = joint
    ring = {"eu": ("us", "asia"), "us": ("asia", "eu"), "asia": ("eu", "us")}
    apps = [region_app(name, region, dict.fromkeys(peers, url), passes_on=True) for region, peers in ring.items()]
    async with running(apps, tmp_path) as runtimes:
        for n in range(30):
            await apps[n % 3].publish(CustomerChanged(customer=f"c{n % 2}", name=f"n{n}"), service="crm")
        await until(are_the_same, runtimes, 30)
        for runtime in runtimes:
            found = [event_id for event_id, _, _ in await events(runtime)]
            assert len(found) == len(set(found)) == 30


@given(st.lists(NAMES, min_size=1, max_size=12), st.sampled_from(["crm", "//up/x", "https://a.b/c#d"]))
def test_an_event_passes_each_region_at_most_once(walk: list[str], service: str) -> None:
    """However it wanders, it is not sent where it has been, and not taken there if it is; its birth stays known."""
    here = walk[0]
    passed = [here]
    for there in walk[1:]:
        if there == here:
            continue
        listed = regions.leave(service, here, there)
        assert (listed is None) == (there in passed)
        source = regions.source_of(service, here)
        arrived = regions.arrive(source, listed or ",".join(passed), there, here)
        if there in passed:
            assert isinstance(arrived, regions.Looped)
            continue
        assert isinstance(arrived, str)
        service, here = arrived, there
        passed.append(there)
        assert regions.region_of(service, here) == passed[0]
        assert regions.birth(service).via == tuple(passed[1:-1])


@pytest.mark.parametrize("listed", [None, 7, "", "EU,,", "x" * 3, "a b"])
def test_what_a_foreign_sender_says_of_regions_is_not_trusted(listed: object) -> None:
    """Without a list that is one, it comes from the peer."""
    arrived = regions.arrive("crm", listed, "eu", "us")
    assert isinstance(arrived, str)
    assert regions.birth(arrived).region in ("us", "xxx")


async def write(url: str, numbers: Iterable[int]) -> None:
    """Have changes made in a region, one after the other; each is durable when it is answered."""
    async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=30) as client:
        for n in numbers:
            answer = await client.post(f"/customers/c{n % 3}", params={"name": f"n{n}"})
            answer.raise_for_status()


def rows(data: Path, sql: str) -> list[tuple[Any, ...]]:
    """Rows of a region's service, looked at from outside of its process."""
    with closing(sqlite3.connect(f"file:{data / 'crm.db'}?mode=ro", uri=True, timeout=10)) as connection:
        return connection.execute(sql).fetchall()


def in_database(url: str, sql: str) -> list[tuple[Any, ...]]:
    """Rows of a region's database, looked at from outside of its process; sorted."""
    import psycopg

    with psycopg.connect(url) as connection:
        return sorted(connection.execute(sql.encode()).fetchall())


def heard(data: Path) -> list[str]:
    """The changes that a region has handled."""
    return [name for (name,) in rows(data, "SELECT name FROM heard")]


def kept(data: Path) -> list[tuple[Any, ...]]:
    """Its state."""
    return rows(data, "SELECT kind, about, stamp, data FROM replicas ORDER BY kind, about")


def have_heard(data: Path, count: int) -> bool:
    """Whether both regions have handled so many changes."""
    return all(len(heard(data / region)) >= count for region in ("eu", "us"))


def agree(data: Path) -> bool:
    """Whether both have the same state."""
    return kept(data / "eu") == kept(data / "us")
