"""Fair sharing: a flood of one tenant, the others' delay, order by key, and what a turn is charged."""

import asyncio
import random
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from antiphon import Event, Retry, Service, Transaction, seconds
from antiphon.errors import DeclarationError
from antiphon.policy.fairness import Shares
from antiphon.testing.clock import VirtualClock
from tests.runtime.kit import running

FLOOD, OTHERS = 1_000, 4


class Job(Event, key="key"):
    """Work of a tenant."""

    tenant: str
    key: str
    n: int
    millis: int = 10


@pytest.fixture
def memory() -> Iterator[Path]:
    """A folder in memory, where there is one: thousands of commits are counted here, not synced."""
    shared = Path("/dev/shm")
    with TemporaryDirectory(dir=shared if shared.is_dir() else None) as folder:
        yield Path(folder)


async def p95_of_others(data: Path, *, flood: int, fair: bool, concurrency: int = 1) -> float:
    """The 95th percentile of what the quiet tenants wait for an answer, in milliseconds of virtual time."""
    clock, service = VirtualClock(), Service("work")
    sent: dict[tuple[str, int], int] = {}
    took: list[int] = []

    @service.on(Job, concurrency=concurrency, fair_by="tenant" if fair else None)
    async def work(job: Job) -> None:
        if len(took) < len(arrivals):  # what is left of the flood is over quickly
            await clock.sleep(job.millis / 1000)
        if job.tenant != "flood":
            took.append(clock.boot_ms() - sent[job.tenant, job.n])

    chance = random.Random(7)
    arrivals = sorted((chance.randrange(2_000), f"t{n % OTHERS}", n) for n in range(2 * 40 * concurrency))
    async with running(data, service, clock=clock) as world:
        await world.runtime.publish("work", *(Job("flood", f"f{n}", n) for n in range(flood)))
        start = clock.boot_ms()
        for at, tenant, n in arrivals:
            await clock.advance(max(0, at - (clock.boot_ms() - start)) / 1000)
            sent[tenant, n] = clock.boot_ms()
            await world.runtime.publish("work", Job(tenant, f"{tenant}-{n}", n))
        await world.until(lambda: len(took) == len(arrivals), seconds=60)
        await clock.advance(0.1)
    return sorted(took)[round(0.95 * len(took)) - 1]


@pytest.mark.anyio
@pytest.mark.parametrize("concurrency", [1, 4])
async def test_a_flood_delays_the_others_by_at_most_twice(memory: Path, concurrency: int) -> None:
    """With 1,000 events of one tenant ahead of them, the others' p95 is at most twice what it is without."""
    alone = await p95_of_others(memory / "alone", flood=0, fair=True, concurrency=concurrency)
    flooded = await p95_of_others(memory / "flooded", flood=FLOOD, fair=True, concurrency=concurrency)
    assert flooded <= 2 * alone, (alone, flooded)


@pytest.mark.anyio
async def test_without_fair_by_a_flood_is_felt(memory: Path) -> None:
    """What the measurement above would say of first come, first served."""
    assert await p95_of_others(memory, flood=FLOOD, fair=False) > 5_000


@pytest.mark.anyio
@pytest.mark.parametrize("outside", [False, True])
async def test_order_by_key_holds_through_retries(tmp_path: Path, outside: bool) -> None:
    """Whatever the turns are, the events of a key are handled in order, each once, and the cursor passes them."""
    service = Service("work", tables="CREATE TABLE done (id INTEGER PRIMARY KEY, tenant, key, n);")
    failed: set[int] = set()

    @service.on(Job, fair_by=lambda job: job.tenant, retry=Retry(first=seconds(0.1)), concurrency=3)
    async def work(job: Job, tx: Transaction) -> None:
        if outside:
            await asyncio.sleep(0)
        if job.n % 7 == 3 and job.n not in failed:
            failed.add(job.n)
            raise ValueError("once")
        await tx.execute("INSERT INTO done (tenant, key, n) VALUES (?, ?, ?)", job.tenant, job.key, job.n)

    chance = random.Random(3)
    jobs = [Job(f"t{chance.randrange(3)}", f"k{chance.randrange(5)}", n) for n in range(300)]
    async with running(tmp_path, service) as world:
        await world.runtime.publish("work", *jobs)
        for _ in range(600):
            await world.clock.advance(0.5)
            if (await world.rows("SELECT count(*) FROM done"))[0][0] == len(jobs):
                break
        rows = await world.rows("SELECT key, n FROM done ORDER BY id")
        for key in {job.key for job in jobs}:
            assert [n for found, n in rows if found == key] == [job.n for job in jobs if job.key == key]
        assert await world.rows("SELECT count(*) FROM antiphon_deliveries") == [(0,)]


@pytest.mark.anyio
async def test_little_that_waits_leaves_no_rows(tmp_path: Path) -> None:
    """While all that waits fits into one turn, nothing is lined up: the happy path is as it was."""
    service = Service("work")

    @service.on(Job, fair_by="tenant")
    async def work(job: Job) -> None:
        """Does it."""

    async with running(tmp_path, service) as world:
        await world.publish("work", *(Job("a", f"k{n}", n) for n in range(10)))
        assert await world.rows("SELECT count(*) FROM antiphon_attempts") == [(0,)]
        assert set((await world.statuses("work.work")).values()) == {"COMPLETED"}


def test_a_tenant_is_a_field_or_a_function() -> None:
    """A field that an event does not have, and what is neither, are refused where they are said."""
    service = Service("work")
    with pytest.raises(DeclarationError, match="no field of Job"):

        @service.on(Job, fair_by="owner")
        async def work(job: Job) -> None:
            """Does it."""

    with pytest.raises(DeclarationError, match="fair_by is 3"):
        service.on(Job, fair_by=3)  # type: ignore[arg-type]


def test_lanes_are_charged_by_time() -> None:
    """A tenant whose work takes ten times as long gets a tenth of the turns."""
    shares, served = Shares(), {"slow": 0, "quick": 0}
    for _ in range(1_100):
        (lane,) = shares.pick({"slow": ["slow"], "quick": ["quick"]}, 1)
        shares.begin(lane)
        shares.end(lane, 10 if lane == "slow" else 1)
        served[lane] += 1
    assert served["quick"] == pytest.approx(1_000, rel=0.05)


def test_who_comes_back_has_saved_nothing() -> None:
    """A lane that was quiet for long does not lock the others out until it has caught up."""
    shares = Shares()
    for _ in range(100):
        shares.begin("busy")
        shares.end("busy", 10)
    turns = []
    for _ in range(10):
        (lane,) = shares.pick({"busy": ["busy"], "quiet": ["quiet"]}, 1)
        shares.begin(lane)
        shares.end(lane, 10)
        turns.append(lane)
    assert 4 <= turns.count("quiet") <= 6


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.floats(0, 50)), max_size=200))
def test_nobody_who_waits_is_ahead_by_more_than_one_turn(times: list[tuple[str, float]]) -> None:
    """While all wait, what two lanes have been served differs by at most two of the longest attempts."""
    shares, served = Shares(), dict.fromkeys("abcd", 0.0)
    for _, took in times:
        (lane,) = shares.pick({lane: [lane] for lane in "abcd"}, 1)
        shares.begin(lane)
        shares.end(lane, took)
        served[lane] += max(took, 0.05)
    assert max(served.values()) - min(served.values()) <= 2 * 50 + 1


@given(st.dictionaries(st.text(max_size=3), st.lists(st.integers(), max_size=5), max_size=6), st.integers(0, 20))
def test_a_pick_keeps_each_lanes_order(waiting: dict[str, list[int]], most: int) -> None:
    """Of each lane the first ones are picked, in order; as many in all as there is room for."""
    tagged = {lane: [(lane, place) for place in range(len(each))] for lane, each in waiting.items()}
    picked = Shares().pick(tagged, most)
    assert len(picked) == min(most, sum(map(len, waiting.values())))
    for lane in waiting:
        places = [place for found, place in picked if found == lane]
        assert places == list(range(len(places)))
