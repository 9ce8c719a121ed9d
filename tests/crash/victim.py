"""An application that is killed: a producer, a handler with a table, a second handler.

``python victim.py DATA shared|own FIRST KILLER``: publishes orders FIRST, FIRST + 1, ... and prints each one's
number when its publish has returned. The order whose number is KILLER kills the process that handles it.
With FIRST below zero it publishes nothing, and ends when everything has been handled.
"""

import asyncio
import os
import signal
import sys
from pathlib import Path

from antiphon import App, Event, Retry, Service, Transaction, seconds

KEYS = 5


class Ordered(Event, key="customer"):
    customer: str
    n: int


class Billed(Event, key="customer"):
    customer: str
    n: int


shop, billing, counter = Service("shop"), Service("billing"), Service("counter")
billing.tables = "CREATE TABLE IF NOT EXISTS bills (id INTEGER PRIMARY KEY, customer TEXT, n INTEGER);"
counter.tables = "CREATE TABLE IF NOT EXISTS counted (id INTEGER PRIMARY KEY, customer TEXT, n INTEGER);"
killer = int(sys.argv[4]) if len(sys.argv) > 4 else -1


@billing.on(Ordered, retry=Retry(first=seconds(0.05)))
async def bill(event: Ordered, tx: Transaction) -> Billed:
    await tx.execute("INSERT INTO bills (customer, n) VALUES (?, ?)", event.customer, event.n)
    if event.n == killer:
        os.kill(os.getpid(), signal.SIGKILL)
    return Billed(event.customer, event.n)


@counter.on(Billed)
async def count(event: Billed, tx: Transaction) -> None:
    await tx.execute("INSERT INTO counted (customer, n) VALUES (?, ?)", event.customer, event.n)


async def publish_for_ever(app: App, first: int) -> None:
    """Several tasks publish, so that commits are shared; each number is printed once it is durable."""

    async def one_key(key: int) -> None:
        n = first + key
        while True:
            await app.publish(Ordered(f"c{key}", n), service="shop")
            print(n, flush=True)
            n += KEYS

    await asyncio.gather(*(one_key(key) for key in range(KEYS)))


async def until_handled(app: App) -> None:
    """Wait until no handler has anything left to do."""
    runtime = app.runtime
    assert runtime is not None
    while True:
        left = 0
        for store in set(runtime.stores.values()):
            for (rows,) in await store.fetch_all(
                "SELECT count(*) FROM antiphon_events WHERE STATUS NOT IN ('COMPLETED', 'FAILED')"
            ):
                left += rows
        published = await runtime.stores["shop"].fetch_all("SELECT count(*) FROM antiphon_log WHERE type = 'Ordered'")
        settled = await runtime.stores["billing"].fetch_all(
            "SELECT count(*) FROM antiphon_events WHERE HANDLER = 'billing.bill'"
        )
        billed = await runtime.stores["billing"].fetch_all("SELECT count(*) FROM bills")
        counted = await runtime.stores["counter"].fetch_all("SELECT count(*) FROM counted")
        if not left and published[0][0] == settled[0][0] and billed[0][0] == counted[0][0]:
            return
        await runtime.clock.sleep(0.02)


async def main() -> None:
    data, layout, first = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    app = App(shop, billing, counter, name="victim", own_stores=layout == "own")
    async with app.run_in(data):
        print("ready", flush=True)
        await (publish_for_ever(app, first) if first >= 0 else until_handled(app))


if __name__ == "__main__":
    asyncio.run(main())
