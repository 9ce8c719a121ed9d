"""The shop in a process of its own, to be killed.

``python -m tests.crash.victim DATA shared|own FIRST KILLER``: publishes orders FIRST, FIRST + 1, ... and prints each
one's number when its publish has returned. The order whose number is KILLER kills the process that handles it. With
FIRST below zero it publishes nothing, and ends when everything has been handled.
"""

import asyncio
import sys
from pathlib import Path

from antiphon import App
from antiphon.runtime.runtime import Runtime
from tests.crash.audits import under_way
from tests.crash.shop import KEYS, NOBODY, Ordered, app_of


async def publish_for_ever(app: App, first: int) -> None:
    """Several tasks publish, so that commits are shared; each number is printed once it is durable."""

    async def one_key(key: int) -> None:
        n = first + key
        while True:
            await app.publish(Ordered(f"c{key}", n), service="shop")
            print(n, flush=True)
            n += KEYS

    await asyncio.gather(*(one_key(key) for key in range(KEYS)))


async def until_handled(runtime: Runtime) -> None:
    """Wait until nothing is under way."""
    while under_way(runtime.data):
        await runtime.clock.sleep(0.02)


async def main() -> None:
    """The command."""
    data, layout, first = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    killer = int(sys.argv[4]) if len(sys.argv) > 4 else NOBODY
    app = app_of(own_stores=layout == "own", killer=killer)
    async with app.run_in(data) as runtime:
        print("ready", flush=True)
        await (publish_for_ever(app, first) if first >= 0 else until_handled(runtime))


if __name__ == "__main__":
    asyncio.run(main())
