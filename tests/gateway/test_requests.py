"""A route that asks another service and answers with what that answers."""

from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import HTTPException

from antiphon import App, Command, Event, Refused, Reject, Service, TimedOut, Transaction, seconds
from antiphon.gateway.application import serve
from tests.gateway.kit import PATIENCE_S

pytestmark = pytest.mark.anyio


class Quoted(Event):
    """A price."""

    cents: int


class Quote(Command[Quoted], to="pricing"):
    """Asks for a price."""

    item: str


@pytest.mark.parametrize("own_stores", [False, True])
async def test_a_route_answers_with_the_outcome_of_a_request(tmp_path: Path, own_stores: bool) -> None:
    """The reply is in the body, a refusal and a time-out are told by the route's own words; it may read before."""
    pricing, shop = Service("pricing"), Service("shop", tables="CREATE TABLE IF NOT EXISTS items (item TEXT);")

    @pricing.on(Quote)
    async def quote(asked: Quote) -> Quoted:
        if asked.item == "cursed":
            raise Reject("we do not sell cursed items")
        return Quoted(100)

    @shop.get("/prices/{item}")
    async def price(item: str, tx: Transaction) -> dict[str, Any]:
        await tx.fetch_all("SELECT * FROM items")
        match await app.request(Quote(item), timeout=seconds(PATIENCE_S), service="shop"):
            case Quoted(cents=cents):
                return {"cents": cents}
            case Refused(reason=reason):
                raise HTTPException(409, reason)
            case TimedOut():
                raise HTTPException(504)

    app = App(pricing, shop, name="asking", own_stores=own_stores)
    async with (
        app.run_in(tmp_path) as runtime,
        serve(app, runtime, port=0) as address,
        httpx.AsyncClient(base_url=address.url, trust_env=False, timeout=PATIENCE_S) as client,
    ):
        assert (await client.get("/prices/rope")).json() == {"cents": 100}
        refused = await client.get("/prices/cursed")
        assert refused.status_code == 409
        assert "cursed items" in refused.text
