"""One region of an app that runs in several: ``antiphon run tests.channel.region:app``, told by its environment."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

from antiphon import App, Event, Service, Transaction
from antiphon.replicated import Replica


class CustomerChanged(Event, key="customer"):
    """What a customer is like now: the last writer wins."""

    customer: str
    name: str


class Watched(Event, key="person"):
    """A list that regions add to: what is on it anywhere is on it."""

    person: str
    reasons: list[str]


class Change(Event, key="customer"):
    """Somebody in this region asks for a change."""

    customer: str
    name: str


def together(kept: Watched, came: Watched) -> Watched:
    """The application's own policy."""
    return Watched(person=kept.person, reasons=sorted({*kept.reasons, *came.reasons}))


def region_app(name: str, region: str, peers: Mapping[str, str], **options: Any) -> App:
    """The app *name* in *region*, joined with *peers* at their URLs."""
    crm = Service("crm", tables="CREATE TABLE heard (id TEXT, customer TEXT, name TEXT)")
    customers: Replica[CustomerChanged] = crm.replicated(CustomerChanged, name="customers")
    crm.replicated(Watched, merge=together, name="watchlist")

    @crm.on(Change)
    async def change(asked: Change, tx: Transaction) -> CustomerChanged | None:
        await customers.change(tx, CustomerChanged(customer=asked.customer, name=asked.name))
        return None

    @crm.post("/customers/{customer}")
    async def write(customer: str, name: str, tx: Transaction) -> dict[str, str]:
        return {"event": await customers.change(tx, CustomerChanged(customer=customer, name=name))}

    @crm.on(CustomerChanged)
    async def hear(changed: CustomerChanged, tx: Transaction) -> None:
        await tx.execute("INSERT INTO heard VALUES (?, ?, ?)", tx.new_id(), changed.customer, changed.name)

    app = App(crm, name=name, own_stores=True)
    for peer, url in peers.items():
        app.channel(url, region=region, peer=peer, replicate=[CustomerChanged, Watched], options=options)
    return app


if "REGION" in os.environ:
    app = region_app(**json.loads(os.environ["REGION"]))
