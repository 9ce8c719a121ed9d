"""Routes of services over HTTP: their transactions, what they publish, and what is said of it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pytest
from fastapi import BackgroundTasks, Depends, HTTPException, Query, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from antiphon import App, Event, Service, SyncTransaction, Transaction, event
from antiphon.errors import AntiphonError, DeclarationError
from antiphon.gateway.application import build
from tests.conftest import require
from tests.gateway.kit import PATIENCE_S, Ordered, billing, rows, served, shop

pytestmark = pytest.mark.anyio

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
TABLE = "CREATE TABLE IF NOT EXISTS notes (n INTEGER PRIMARY KEY, text TEXT);"


class Noted(Event, key="n"):
    n: int
    text: str


@event(key="n")
@dataclass
class Counted:
    n: int


class Note(BaseModel):
    n: int
    text: str = "empty"


async def test_a_returned_event_is_published_and_answered_with_its_links(tmp_path: Path) -> None:
    """202 with the key, the ids and the links, in a Location header too; the event is in the log."""
    async with served(tmp_path, shop()) as (client, runtime):
        answer = await client.post("/orders", json={"id": "o1", "item": "tea"})
        body = answer.json()
        assert answer.status_code == 202
        assert body["order_id"] == "o1"
        assert body["event_id"] == body["correlation_id"]
        assert body["events"] == f"/events/{body['correlation_id']}" == answer.headers["location"]
        assert body["stream"] == f"{body['events']}/stream"
        assert await rows(runtime, "SELECT id, type, key FROM antiphon_log") == [(body["event_id"], "Ordered", "o1")]


async def test_what_a_route_writes_and_publishes_commits_together(tmp_path: Path) -> None:
    """A route that fails after writing and publishing has done neither."""
    service = Service("notes", tables=TABLE)

    @service.post("/notes")
    async def note(found: Note, tx: Transaction) -> dict[str, str]:
        await tx.execute("INSERT INTO notes VALUES (?, ?)", found.n, found.text)
        tx.publish(Noted(found.n, found.text))
        if found.text == "bad":
            raise HTTPException(409, "not that")
        return {"noted": found.text}

    async with served(tmp_path, service) as (client, runtime):
        bad = await client.post("/notes", json={"n": 1, "text": "bad"})
        good = await client.post("/notes", json={"n": 2, "text": "good"})
        assert (bad.status_code, good.status_code) == (409, 200)
        assert good.json() == {"noted": "good"}
        assert await rows(runtime, "SELECT n FROM notes") == [(2,)]
        [(correlation,)] = await rows(runtime, "SELECT id FROM antiphon_log")
        assert good.headers["link"] == f'</events/{correlation}>; rel="events"'
        assert "link" not in bad.headers


async def test_a_route_takes_what_fastapi_gives(tmp_path: Path) -> None:
    """Path, query, body, dependencies and responses are FastAPI's own, beside the transaction."""
    service = Service("notes", tables=TABLE)

    def who(name: str = "nobody") -> str:
        return name

    @service.put("/notes/{n}", status_code=201, summary="Put a note")
    async def put(
        n: int,
        note: Note,
        tx: Transaction,
        response: Response,
        author: Annotated[str, Depends(who)],
        times: Annotated[int, Query(ge=1)] = 1,
    ) -> Note:
        """Keeps it."""
        response.headers["x-author"] = author
        return Note(n=n, text=note.text * times)

    async with served(tmp_path, service) as (client, _):
        answer = await client.put("/notes/7?times=2&name=ann", json={"n": 1, "text": "ab"})
        assert (answer.status_code, answer.json()) == (201, {"n": 7, "text": "abab"})
        assert answer.headers["x-author"] == "ann"
        wrong = await client.put("/notes/7?times=0", json={"n": 1})
        assert wrong.status_code == 422
        operation = (await client.get("/openapi.json")).json()["paths"]["/notes/{n}"]["put"]
        assert operation["summary"] == "Put a note"
        assert operation["tags"] == ["notes"]
        assert {each["name"] for each in operation["parameters"]} == {"n", "times", "name", "Idempotency-Key"}


async def test_a_plain_function_gets_a_blocking_transaction(tmp_path: Path) -> None:
    """A `def` route runs in a thread, writes through a SyncTransaction, and publishes what it returns."""
    service = Service("notes", tables=TABLE)

    @service.post("/notes")
    def note(note: Note, tx: SyncTransaction) -> list[Noted | Counted]:
        tx.execute("INSERT INTO notes VALUES (?, ?)", note.n, note.text)
        total = tx.fetch_value("SELECT count(*) FROM notes")
        return [Noted(note.n, note.text), Counted(total)]

    async with served(tmp_path, service) as (client, runtime):
        answer = await client.post("/notes", json={"n": 5})
        assert answer.status_code == 202
        logged = await rows(runtime, "SELECT type, key, coalesce(correlation_id, id) FROM antiphon_log ORDER BY seq")
        assert [row[:2] for row in logged] == [("Noted", "5"), ("Counted", "1")]
        assert {row[2] for row in logged} == {answer.json()["correlation_id"]}


async def test_a_route_gets_a_session_of_sqlalchemy(tmp_path: Path) -> None:
    """An AsyncSession works on the same transaction: it commits with the event, or not at all."""
    sqlalchemy = pytest.importorskip("sqlalchemy")
    from sqlalchemy.ext.asyncio import AsyncSession

    require("sqlalchemy", bool(sqlalchemy))
    service = Service("notes", tables=TABLE)

    @service.post("/notes")
    async def note(note: Note, session: AsyncSession, tx: Transaction) -> Noted:
        await session.execute(sqlalchemy.text("INSERT INTO notes VALUES (:n, :text)"), {"n": note.n, "text": note.text})
        if note.text == "bad":
            raise HTTPException(400)
        assert await tx.fetch_value("SELECT text FROM notes WHERE n = ?", note.n) == note.text
        return Noted(note.n, note.text)

    async with served(tmp_path, service) as (client, runtime):
        assert (await client.post("/notes", json={"n": 1, "text": "bad"})).status_code == 400
        assert (await client.post("/notes", json={"n": 2})).status_code == 202
        assert (await client.post("/notes", json={"n": 3})).status_code == 202
        assert await rows(runtime, "SELECT n FROM notes") == [(2,), (3,)]
        assert await rows(runtime, "SELECT key FROM antiphon_log") == [("2",), ("3",)]


async def test_reading_takes_no_lock(tmp_path: Path) -> None:
    """A GET is answered while another transaction holds the store's write lock."""
    async with served(tmp_path, shop()) as (client, runtime):
        await client.post("/orders", json={"id": "o1", "item": "tea"})
        async with runtime.logs[0].unit() as unit:
            await unit.execute("UPDATE orders SET item = 'coffee'")
            assert (await client.get("/orders/o1")).json() == {"item": "tea"}
        assert (await client.get("/orders/o1")).json() == {"item": "coffee"}


async def test_a_trace_goes_through(tmp_path: Path) -> None:
    """A valid traceparent is kept with the event and returned; one that is none is ignored."""
    async with served(tmp_path, shop()) as (client, runtime):
        traced = await client.post("/orders", json={"id": "o1", "item": "tea"}, headers={"traceparent": TRACE})
        broken = await client.post("/orders", json={"id": "o2", "item": "tea"}, headers={"traceparent": TRACE + "-x"})
        read = await client.get("/orders/o1", headers={"traceparent": TRACE})
        assert traced.headers["traceparent"] == read.headers["traceparent"] == TRACE
        assert broken.headers["traceparent"][:3] == "00-"
        assert broken.headers["traceparent"] != TRACE
        assert await rows(runtime, "SELECT traceparent FROM antiphon_log ORDER BY seq") == [(TRACE,), (None,)]


async def test_a_route_publishes_what_its_annotation_names_only(tmp_path: Path) -> None:
    """Another event is a mistake in the code: 500, and nothing is published."""
    service = Service("notes")

    @service.post("/notes")
    async def note() -> Noted:
        return Ordered("o1", "tea", 1)  # type: ignore[return-value]

    async with served(tmp_path, service) as (client, runtime):
        assert (await client.post("/notes")).status_code == 500
        assert not await rows(runtime, "SELECT 1 FROM antiphon_log")


async def test_an_answer_that_is_returned_keeps_the_transaction(tmp_path: Path) -> None:
    """Raising undoes, returning does not, whatever the status: a refusal can be recorded."""
    service = Service("notes", tables=TABLE)

    @service.post("/notes")
    async def note(tx: Transaction) -> JSONResponse:
        await tx.execute("INSERT INTO notes VALUES (1, 'refused')")
        return JSONResponse({"no": True}, 403)

    async with served(tmp_path, service) as (client, runtime):
        assert (await client.post("/notes")).status_code == 403
        assert await rows(runtime, "SELECT text FROM notes") == [("refused",)]


async def test_a_transaction_is_over_with_its_answer(tmp_path: Path) -> None:
    """What uses it later is told so, and holds no lock for ever."""
    service = Service("notes", tables=TABLE)
    told = asyncio.Event()

    @service.post("/notes")
    async def note(tx: Transaction, later: BackgroundTasks) -> dict[str, str]:
        async def write() -> None:
            with pytest.raises(AntiphonError, match="transaction is over"):
                await tx.execute("INSERT INTO notes VALUES (1, 'late')")
            with pytest.raises(AntiphonError, match="transaction is over"):
                tx.publish(Noted(1, "late"))
            told.set()

        later.add_task(write)
        return {}

    async with served(tmp_path, service) as (client, runtime):
        assert (await client.post("/notes")).status_code == 200
        await asyncio.wait_for(told.wait(), PATIENCE_S)
        async with runtime.logs[0].unit():
            pass
        assert not await rows(runtime, "SELECT 1 FROM antiphon_log")


async def test_the_docs_show_all_routes_by_service(tmp_path: Path) -> None:
    """OpenAPI has the routes of every service of the app, tagged by it, with 202 and problems described."""
    async with served(tmp_path, shop(), billing(), only=["shop"]) as (client, _):
        described = (await client.get("/openapi.json")).json()
        order = described["paths"]["/orders"]["post"]
        assert described["paths"]["/bills/{name}"]["get"]["tags"] == ["billing"]
        assert set(order["responses"]) == {"202", "default"}
        assert "application/problem+json" in order["responses"]["default"]["content"]
        assert "/livez" in described["paths"]
        page = await client.get("/docs")
        assert page.status_code == 200
        assert "swagger" in page.text


async def test_contradicting_routes_are_refused(tmp_path: Path) -> None:
    """Two services cannot answer the same path, and none the gateway's own."""
    one, two, three = Service("one"), Service("two"), Service("three")
    for service in (one, two):
        service.get("/same")(_nothing)
    three.get("/events/mine")(_nothing)
    both, ours = App(one, two, name="both"), App(three, name="ours")
    async with both.run_in(tmp_path / "both") as runtime:
        with pytest.raises(DeclarationError, match="answered by service 'one' too"):
            build(both, runtime)
    async with ours.run_in(tmp_path / "ours") as runtime:
        with pytest.raises(DeclarationError, match="the gateway's own routes"):
            build(ours, runtime)


async def _nothing() -> dict[str, Any]:
    return {}
