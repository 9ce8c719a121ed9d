"""CloudEvents from outside."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest

from antiphon import App
from antiphon.gateway.application import serve
from tests.gateway.kit import billing, followed, rows, served, shop

pytestmark = pytest.mark.anyio

STRUCTURED = {"content-type": "application/cloudevents+json"}
BATCH = {"content-type": "application/cloudevents-batch+json"}
DATA = {"order_id": "o1", "item": "tea", "cents": 5}
EVENT = {"specversion": "1.0", "id": "e-1", "source": "https://else.where/orders", "type": "Ordered", "data": DATA}


async def post(client: httpx.AsyncClient, body: Any, headers: dict[str, str] = STRUCTURED) -> httpx.Response:
    """POST one CloudEvent, or what should be one."""
    content = {"content": body} if isinstance(body, bytes) else {"json": body}
    return await client.post("/events", headers=headers, **content)


async def test_it_is_opened_by_the_app(tmp_path: Path) -> None:
    """Unless the app says so, nobody can put events into its log."""
    async with served(tmp_path / "closed", shop()) as (client, _):
        assert (await post(client, EVENT)).status_code in (404, 405)
    app = App(shop(), billing(), name="app", ingress=True)
    async with (
        app.run_in(tmp_path / "open") as runtime,
        serve(app, runtime, port=0) as address,
        httpx.AsyncClient(base_url=address.url, trust_env=False) as client,
    ):
        assert (await post(client, EVENT)).status_code == 202


@pytest.mark.parametrize("own_stores", [False, True])
async def test_events_are_taken_in_every_form(tmp_path: Path, own_stores: bool) -> None:
    """Structured, binary and batched; they keep their ids, and handlers get them."""
    async with served(tmp_path, shop(), billing(), own_stores=own_stores, ingress=True) as (client, runtime):
        binary = {"ce-specversion": "1.0", "ce-id": "e-2", "ce-source": "/else/where", "ce-type": "Ordered"}
        assert (await post(client, EVENT)).json() == {"accepted": [{"event_id": "e-1", "correlation_id": "e-1"}]}
        assert (await post(client, DATA, {"content-type": "application/json", **binary})).status_code == 202
        assert (await post(client, [{**EVENT, "id": "e-3"}, {**EVENT, "id": "e-4"}], BATCH)).status_code == 202
        for event_id in ("e-1", "e-2", "e-3", "e-4"):
            told = await followed(client, f"/events/{event_id}/stream", "Paid")
            assert [message["event"] for message in told] == ["Ordered", "Paid"]
        store = runtime.stores["billing"]
        found = await store.fetch_all("SELECT id, origin FROM antiphon_log WHERE type = 'Ordered' ORDER BY id")
        assert [tuple(row) for row in found] == [("e-1", 1), ("e-2", 1), ("e-3", 1), ("e-4", 1)]


@pytest.mark.parametrize("own_stores", [False, True])
async def test_an_event_that_comes_again_does_nothing(tmp_path: Path, own_stores: bool) -> None:
    """Both are accepted, one takes effect."""
    async with served(tmp_path, shop(), billing(), own_stores=own_stores, ingress=True) as (client, runtime):
        for _ in range(3):
            assert (await post(client, EVENT)).status_code == 202
        await post(client, {**EVENT, "id": "e-2"})
        await followed(client, "/events/e-2/stream", "Paid")
        found = await runtime.stores["billing"].fetch_all("SELECT count(*) FROM antiphon_log WHERE type = 'Paid'")
        assert found[0][0] == 2


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        (b"\xff\xfe", 400, "$"),
        (b'{"specversion": "1.0"', 400, "$"),
        ({**EVENT, "specversion": "9.9"}, 400, "$.specversion"),
        ({key: value for key, value in EVENT.items() if key != "id"}, 400, "$.id"),
        ({**EVENT, "data": {**DATA, "cents": "many"}}, 422, "$.cents"),
        ({**EVENT, "dataschema": "urn:antiphon:event:Ordered:7"}, 422, "$"),
    ],
)
async def test_what_cannot_be_read_is_refused_and_kept(tmp_path: Path, body: Any, status: int, field: str) -> None:
    """The answer names field and reason; a dead letter keeps the very bytes, once however often it comes."""
    async with served(tmp_path, shop(), billing(), ingress=True) as (client, runtime):
        first, again = await post(client, body), await post(client, body)
        assert first.status_code == again.status_code == status
        assert (first.json()["field"], bool(first.json()["reason"])) == (field, True)
        [(event_id, handler, dead, reason)] = await rows(
            runtime, "SELECT EVENT_ID, HANDLER, STATUS, REASON FROM antiphon_dead_letters"
        )
        assert (event_id, handler, dead) == (first.json()["dead_letter"], "gateway.inlet", "ERROR")
        assert field in reason
        [(raw,)] = await rows(runtime, "SELECT data FROM antiphon_log WHERE type = 'antiphon.undecodable'")
        assert raw == first.request.content


async def test_a_type_that_nobody_knows_is_refused(tmp_path: Path) -> None:
    """It is none of ours, so nothing of it is kept; a batch is taken as a whole or not at all."""
    async with served(tmp_path, shop(), ingress=True) as (client, runtime):
        answer = await post(client, [EVENT, {**EVENT, "id": "e-2", "type": "Elsewhere"}], BATCH)
        assert answer.status_code == 422
        assert answer.json()["field"] == "$[1].type"
        assert not await rows(runtime, "SELECT 1 FROM antiphon_log")


async def test_an_event_too_large_is_refused(tmp_path: Path) -> None:
    """413, whether the event's own limit or the request's is reached."""
    async with served(tmp_path, shop(), ingress=True, max_body=4 << 20) as (client, runtime):
        answer = await post(client, {**EVENT, "data": {**DATA, "item": "x" * (1 << 20)}})
        assert answer.status_code == 413
        assert not await rows(runtime, "SELECT 1 FROM antiphon_log")


async def test_nobody_speaks_for_a_service_on_the_bus(tmp_path: Path) -> None:
    """With a bus, a service takes none of its own events from it: one made up outside would be lost."""
    async with served(tmp_path, shop(), billing(), own_stores=True, ingress=True) as (client, _):
        answer = await post(client, {**EVENT, "source": "/billing"})
        assert answer.status_code == 422
        assert answer.json()["field"] == "$.source"
