"""Whatever goes wrong is answered as RFC 9457 problem details."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

import pytest
from fastapi import HTTPException
from pydantic import BaseModel

from antiphon import Event, Service
from antiphon.errors import PayloadTooLarge, StoreFull, StoreLocked
from tests.gateway.kit import served, shop, until

pytestmark = pytest.mark.anyio


class Priced(Event, key="name"):
    name: str
    price: float


class Item(BaseModel):
    name: str
    sizes: list[int] = []


def failing() -> Service:
    """A service whose every route fails."""
    service = Service("failing")
    errors: dict[str, Exception] = {
        "teapot": HTTPException(418, "no coffee", {"x-kind": "pot"}),
        "plain": HTTPException(404),
        "members": HTTPException(409, {"detail": "taken", "holder": "ann", "status": 1}),
        "list": HTTPException(400, ["a", "b"]),
        "locked": StoreLocked("locked", where="/secret/path"),
        "full": StoreFull("full", where="/secret/path"),
        "bug": ZeroDivisionError("password=secret"),
        "large": PayloadTooLarge("Priced", "$", "2 bytes too many"),
    }

    @service.get("/fail/{how}")
    async def fail(how: str) -> None:
        raise errors[how]

    @service.post("/items")
    async def item(item: Item, limit: int = 1) -> Item:
        return item

    @service.post("/prices")
    async def price(item: Item) -> Priced:
        return Priced(item.name, float("nan"))

    return service


@pytest.mark.parametrize(
    ("how", "status", "members"),
    [
        ("teapot", 418, {"detail": "no coffee", "title": "I'm a Teapot"}),
        ("plain", 404, {"title": "Not Found", "type": "about:blank"}),
        ("members", 409, {"detail": "taken", "holder": "ann"}),
        ("list", 400, {"errors": ["a", "b"]}),
        ("locked", 503, {"type": "urn:antiphon:problem:store-unavailable"}),
        ("full", 503, {"type": "urn:antiphon:problem:store-unavailable"}),
        ("bug", 500, {"title": "Internal Server Error"}),
        ("large", 413, {"field": "$", "reason": "2 bytes too many"}),
    ],
)
async def test_an_error_becomes_a_problem(tmp_path: Path, how: str, status: int, members: dict[str, Any]) -> None:
    """Its status, what is wrong, and nothing of our insides."""
    async with served(tmp_path, failing()) as (client, _):
        answer = await client.get(f"/fail/{how}")
        assert answer.status_code == answer.json()["status"] == status
        assert answer.headers["content-type"] == "application/problem+json"
        assert members.items() <= answer.json().items()
        assert "secret" not in answer.text
        if status == 503:
            assert int(answer.headers["retry-after"]) >= 1
        if how == "teapot":
            assert answer.headers["x-kind"] == "pot"


async def test_what_nobody_foresaw_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The traceback is in the log, once."""
    async with served(tmp_path, failing()) as (client, _):
        with caplog.at_level(logging.ERROR):
            await client.get("/fail/bug")
        tracebacks = [record for record in caplog.records if record.exc_info]
        assert len(tracebacks) == 1
        assert "GET /fail/bug failed" in tracebacks[0].getMessage()


@pytest.mark.parametrize(
    ("path", "body", "errors"),
    [
        ("/items", b'{"sizes": [1, "x"]}', [("body", "$.name"), ("body", "$.sizes[1]")]),
        ("/items?limit=x", b'{"name": "a"}', [("query", "limit")]),
        ("/items", b'{"name": ', [("body", "$")]),
        ("/items", b"[]", [("body", "$")]),
    ],
)
async def test_an_invalid_request_names_its_fields(
    tmp_path: Path, path: str, body: bytes, errors: list[tuple[str, str]]
) -> None:
    """422 with where each mistake is and why; the client's data is not sent back."""
    async with served(tmp_path, failing()) as (client, _):
        answer = await client.post(path, content=body, headers={"content-type": "application/json"})
        assert answer.status_code == 422
        assert [(each["in"], each["field"]) for each in answer.json()["errors"]] == errors
        assert all(each["reason"] for each in answer.json()["errors"])
        assert "input" not in answer.text


async def test_an_invalid_event_names_field_and_reason(tmp_path: Path) -> None:
    """An event that breaks its contract is the client's to mend."""
    async with served(tmp_path, failing()) as (client, _):
        answer = await client.post("/prices", json={"name": "a"})
        assert answer.status_code == 422
        assert answer.json()["type"] == "urn:antiphon:problem:invalid-event"
        assert (answer.json()["event"], answer.json()["field"]) == ("Priced", "$.price")
        assert answer.json()["reason"]


async def test_unknown_routes_and_methods_are_problems(tmp_path: Path) -> None:
    """404, and 405 with what is allowed."""
    async with served(tmp_path, shop()) as (client, _):
        unknown = await client.get("/nowhere")
        method = await client.delete("/orders")
        assert (unknown.status_code, method.status_code) == (404, 405)
        assert unknown.json()["instance"] == "/nowhere"
        assert method.headers["allow"] == "POST"
        for answer in (unknown, method):
            assert answer.headers["content-type"] == "application/problem+json"


async def test_a_client_that_leaves_in_the_middle_is_no_error(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A body that never comes to its end (the client, or the gateway that passed it on, has died) is nobody's fault."""
    caplog.set_level(logging.DEBUG, "antiphon.gateway")

    async def told() -> bool:
        return "the client left in the middle" in caplog.text

    async with served(tmp_path, shop()) as (client, _):
        _, writer = await asyncio.open_connection(client.base_url.host, client.base_url.port)
        head = "POST /orders HTTP/1.1\r\nHost: here\r\nContent-Type: application/json\r\nIdempotency-Key: k\r\n"
        writer.write(f'{head}Content-Length: 100\r\n\r\n{{"id": '.encode())
        await writer.drain()
        writer.close()
        await until(told)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
