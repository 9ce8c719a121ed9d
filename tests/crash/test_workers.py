"""Workers that join, leave, hang and die under load move their partitions; nothing is lost, doubled or out of order."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from antiphon.errors import StoreError
from antiphon.runtime.runtime import Runtime
from tests.crash import crowd
from tests.store.postgres import database

_ROOT = Path(__file__).parents[2]
_PATIENCE_S = 90.0
#: Published at the start, so that a handler is pressed; afterwards so many at a time, with a pause.
_BACKLOG, _BATCH, _PAUSE_S = 1_200, 10, 0.4


class Crowd:
    """Processes that run the mill, and the shop in this one, which never stops to publish."""

    def __init__(self, runtime: Runtime, data: Path, store: str | None) -> None:
        self._runtime = runtime
        self._options = ["--data", str(data), *(["--store", store] if store else [])]
        self._errors = data.with_suffix(".stderr")
        self._hanging = data.with_suffix(".hang")
        self.workers: list[asyncio.subprocess.Process] = []
        self.published = 0
        self._is_enough = False

    async def join(self) -> asyncio.subprocess.Process:
        """Start one more, and wait until it is ready."""
        with self._errors.open("ab") as errors:
            worker = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "antiphon", "run", "tests.crash.crowd:app", "--services", "mill"),
                *("--no-gateway", "--json", "--log-level", "error", *self._options),
                cwd=_ROOT,
                env={**os.environ, crowd.HANG: str(self._hanging)},
                stdout=asyncio.subprocess.PIPE,
                stderr=errors,
            )
        assert worker.stdout is not None
        ready = await asyncio.wait_for(worker.stdout.readline(), _PATIENCE_S)
        assert ready, self._errors.read_text()
        assert json.loads(ready)["ready"]
        self.workers.append(worker)
        return worker

    async def hang(self, worker: asyncio.subprocess.Process, *, by_signal: bool) -> None:
        """Have one stand still: wherever it is, or (a file has one writer) when it has no transaction open."""
        if by_signal:
            os.kill(worker.pid, signal.SIGSTOP)
            return
        self._hanging.write_text(str(worker.pid))

        async def hangs() -> bool:
            return not self._hanging.exists()

        await self.until(hangs, "hanging")

    async def publish(self) -> None:
        """Publish until it is enough; never cancelled, which would leave open what of the last batch was kept."""
        while not self._is_enough:
            numbers = range(self.published, self.published + _BATCH)
            with suppress(StoreError):
                await self._runtime.publish("shop", *map(crowd.event, numbers))
                self.published += _BATCH
            if self.published > _BACKLOG:
                await self._runtime.clock.sleep(_PAUSE_S)

    async def end_publishing(self, publishing: asyncio.Task[None]) -> None:
        """Have it end with the batch it is at."""
        self._is_enough = True
        await publishing

    async def has_published(self, count: int) -> bool:
        """Whether so many have been published."""
        return self.published >= count

    async def rows(self) -> list[Any]:
        """What was ground so far."""
        store = self._runtime.store_of("shop")
        found: list[Any] = await store.fetch_all("SELECT sack, place, n, worker FROM flour ORDER BY sack, place")
        return found

    async def owners(self) -> dict[str, str | None]:
        """Who has the lease of each partition, by its number and how many there are."""
        partitions = await self._runtime.store_of("shop").partitions()
        return {f"{each.part}/{each.parts}": each.owner for each in partitions if each.handler == "mill.grind"}

    async def owned_by(self, *pids: int) -> bool:
        """Whether these processes, all of them and nobody else, have all partitions."""
        owners = (await self.owners()).values()
        return None not in owners and {str(owner).partition("-")[0] for owner in owners} == set(map(str, pids))

    async def until(self, true: Callable[[], Awaitable[bool]], what: str) -> float:
        """Return, when it is true, after how many seconds; fail after a while."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        while not await true():
            assert loop.time() < began + _PATIENCE_S, f"it did not come to {what}: {await self.owners()}"
            await self._runtime.clock.sleep(0.1)
        return loop.time() - began

    async def end(self) -> None:
        """Kill whoever still lives."""
        for worker in self.workers:
            with suppress(ProcessLookupError):
                worker.kill()
            await worker.wait()


@asynccontextmanager
async def crowded(data: Path, store: str | None) -> AsyncIterator[Crowd]:
    """A crowd without workers."""
    async with crowd.app.run_in(data, services=["shop"], store=store) as runtime:
        found = Crowd(runtime, data, store)
        try:
            yield found
        finally:
            await found.end()


async def play(data: Path, store: str | None) -> dict[str, float]:
    """Workers join, leave, die, and one hangs for longer than its leases last; then the table is audited.

    Returns how many seconds it took until the partitions were others'.
    """
    took: dict[str, float] = {}
    async with crowded(data, store) as it:
        publishing = asyncio.create_task(it.publish())
        first = await it.join()
        await it.until(lambda: it.owned_by(first.pid), "the first worker")
        second = await it.join()
        took["joined"] = await it.until(lambda: it.owned_by(first.pid, second.pid), "a share for the second")
        assert len(await it.owners()) > 1
        first.kill()
        took["died"] = await it.until(lambda: it.owned_by(second.pid), "taking over from the dead")
        third, fourth = await it.join(), await it.join()
        everybody = (second.pid, third.pid, fourth.pid)
        await it.until(lambda: it.owned_by(*everybody), "shares for three")
        third.terminate()
        took["left"] = await it.until(lambda: it.owned_by(second.pid, fourth.pid), "taking over from who left")
        assert await third.wait() == 0
        await it.hang(fourth, by_signal=store is not None)
        took["hung"] = await it.until(lambda: it.owned_by(second.pid), "taking over from who hangs")
        os.kill(fourth.pid, signal.SIGCONT)
        published = it.published
        await it.until(lambda: it.has_published(published + 3 * _BATCH), "some more, with it back")
        for worker in (second, fourth):
            worker.kill()
            await worker.wait()
        last = await it.join()
        await it.end_publishing(publishing)
        await it.until(lambda: it.owned_by(last.pid), "one that has it all")

        async def all_ground() -> bool:
            return len({row[2] for row in await it.rows()}) >= it.published

        await it.until(all_ground, "the end of all that was published")
        last.terminate()
        assert await last.wait() == 0
        rows = await it.rows()
        assert crowd.audit(rows, it.published) == Counter()
        assert len({row[3] for row in rows}) >= 4
    return took


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """A database for these tests."""
    with database() as found:
        yield found


def test_on_a_file(tmp_path: Path) -> None:
    """On SQLite, with a worker that hangs for longer than its leases; each move takes seconds."""
    took = asyncio.run(play(tmp_path / "data", None))
    assert max(took["died"], took["left"]) < 10
    assert took["hung"] < 30


def test_on_postgresql(tmp_path: Path, url: str) -> None:
    """The same on PostgreSQL."""
    took = asyncio.run(play(tmp_path / "data", url))
    assert max(took["died"], took["left"]) < 10
    assert took["hung"] < 30
