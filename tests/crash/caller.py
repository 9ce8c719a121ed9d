"""An application that dies around its calls to the outside: ``python caller.py DATA BANK POINT``.

The handlers ``verify``, ``repeat`` and ``park`` each make one call, which appends a line to the file BANK. When
all three have come to POINT (``intended``, ``called``, ``returned``), the process is killed; with POINT ``none`` it
goes on, and ends when nothing is left to do.
"""

import asyncio
import os
import signal
import sys
from pathlib import Path

from antiphon import App, Effects, Event, Retry, Service, Transaction, seconds

data, bank, point = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
service = Service("payment", tables="CREATE TABLE receipts (handler TEXT PRIMARY KEY, result TEXT);")
arrived: set[str] = set()


class Charge(Event):
    """A card has to be charged."""


async def come_to(place: str, name: str) -> None:
    """Die here together with the others, or go on."""
    if place != point:
        return
    arrived.add(name)
    if len(arrived) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    await asyncio.Event().wait()


async def charge(name: str) -> str:
    """What the bank does: durable, and as often as it is asked."""
    await come_to("intended", name)
    with bank.open("a") as ledger:
        ledger.write(f"{name}\n")
        ledger.flush()
        os.fsync(ledger.fileno())
    await come_to("called", name)
    return f"receipt of {name}"


async def find(name: str) -> str | None:
    """What the bank knows."""
    known = bank.exists() and name in bank.read_text().split()
    return f"receipt of {name}" if known else None


async def pay(_: Charge, effects: Effects, tx: Transaction, *, name: str) -> None:
    """One call and one row."""
    if name == "verify":
        receipt = await effects.once("charge", charge, name, verify=find)
    else:
        receipt = await effects.once("charge", charge, name, idempotent=name == "repeat")
    await come_to("returned", name)
    await tx.execute("INSERT INTO receipts VALUES (?, ?)", name, receipt)


def bind(name: str) -> None:
    """A handler of that name."""

    @service.on(Charge, name=name, retry=Retry(attempts=3, first=seconds(0.01)))
    async def bound(wanted: Charge, effects: Effects, tx: Transaction) -> None:
        await pay(wanted, effects, tx, name=name)


async def main() -> None:
    """Publish once, then handle until all is done or dead."""
    app = App(service, name="caller")
    async with app.run_in(data) as runtime:
        store = runtime.stores["payment"]
        if not await store.head():
            await app.publish(Charge())
        sql = "SELECT count(*) FROM antiphon_events WHERE STATUS NOT IN ('COMPLETED', 'FAILED')"
        while (await store.fetch_all(sql))[0][0]:
            await runtime.clock.sleep(0.02)


for each in ("verify", "repeat", "park"):
    bind(each)
asyncio.run(main())
