"""Several processes, one public address."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import Response
from fastapi.responses import StreamingResponse
from starlette.requests import Request

from antiphon import Service, Transaction
from tests.gateway.kit import PATIENCE_S, Ordered, billing, followed, served, shop

pytestmark = pytest.mark.anyio


def far() -> Service:
    """A service to be reached from another process."""
    service = Service("far", tables="CREATE TABLE IF NOT EXISTS seen (n INT);")

    @service.post("/far/{name:path}")
    async def tell(name: str, request: Request, response: Response) -> dict[str, Any]:
        response.headers.append("set-cookie", "a=1")
        response.headers.append("set-cookie", "b=2")
        kept = {key: value for key, value in request.headers.items() if key in ("x-one", "te", "x-hop", "host")}
        return {"name": name, "query": str(request.url.query), "body": len(await request.body()), "headers": kept}

    @service.get("/drip")
    async def drip() -> StreamingResponse:
        async def parts() -> AsyncIterator[bytes]:
            yield b"first\n"
            await asyncio.Event().wait()

        return StreamingResponse(parts())

    @service.post("/orders-far")
    async def order(tx: Transaction) -> Ordered:
        await tx.execute("INSERT INTO seen VALUES (1)")
        return Ordered("o1", "tea", 1)

    return service


async def test_a_request_goes_to_the_process_that_runs_its_service(tmp_path: Path) -> None:
    """Path, query, body, headers, status and cookies go through; what is the connection's own does not."""
    async with (
        served(tmp_path, shop(), far(), only=["far"]),
        served(tmp_path, shop(), far(), only=["shop"]) as (client, _),
    ):
        headers = {"x-one": "1", "te": "trailers", "x-hop": "1", "connection": "keep-alive, x-hop"}
        answer = await client.post("/far/a%2Fb%20c?x=1&y=%26", content=b"12345", headers=headers)
        assert answer.status_code == 200
        host = f"{client.base_url.host}:{client.base_url.port}"
        assert answer.json() == {
            "name": "a/b c",
            "query": "x=1&y=%26",
            "body": 5,
            "headers": {"x-one": "1", "host": host},
        }
        assert answer.headers.get_list("set-cookie") == ["a=1", "b=2"]
        assert len(answer.headers.get_list("date")) == 1
        assert (await client.get("/far/x")).status_code == 405
        assert (await client.post("/far/x", content=b"")).json()["body"] == 0


@pytest.mark.parametrize("own_stores", [False, True])
async def test_one_address_serves_what_runs_elsewhere(tmp_path: Path, own_stores: bool) -> None:
    """A gateway without services of its own: posts go through, and their events can be followed there."""
    services = (far(), billing())
    async with (
        served(tmp_path, far(), billing(), own_stores=own_stores, only=["far"]),
        served(tmp_path, far(), billing(), own_stores=own_stores, only=["billing"]),
        served(tmp_path, *services, own_stores=own_stores, only=[]) as (client, _),
    ):
        headers = {"Idempotency-Key": "k"}
        accepted = await client.post("/orders-far", headers=headers)
        assert accepted.status_code == 202
        told = await followed(client, accepted.json()["stream"], "Paid")
        assert [message["event"] for message in told] == ["Ordered", "Paid"]
        assert (await client.get(accepted.json()["events"])).status_code == 200
        assert (await client.post("/orders-far", headers=headers)).headers["idempotency-replayed"] == "true"
        assert (await client.get("/bills/b1")).json() == {"bill": "b1"}
        assert (await client.get("/readyz")).status_code == 200
        assert (await client.get("/metrics")).status_code == 200


async def test_a_stream_goes_through_as_it_comes(tmp_path: Path) -> None:
    """Its parts are passed on at once; when the client goes, the far end is told."""
    async with (
        served(tmp_path, shop(), far(), only=["far"]) as (_, _),
        served(tmp_path, shop(), far(), only=["shop"]) as (client, _),
    ):
        async with asyncio.timeout(PATIENCE_S), client.stream("GET", "/drip") as answer:
            assert await anext(answer.aiter_lines()) == "first"
        assert (await client.get("/livez")).status_code == 200


async def test_a_large_body_is_refused_on_its_way(tmp_path: Path) -> None:
    """The limit counts while the body streams through."""

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield b"x" * 1_000

    async with (
        served(tmp_path, shop(), far(), only=["far"]),
        served(tmp_path, shop(), far(), only=["shop"], max_body=10_000) as (client, _),
    ):
        assert (await client.post("/far/x", content=chunks())).status_code == 413
        assert (await client.post("/far/x", content=b"x")).json()["body"] == 1


async def test_a_service_that_does_not_run_is_named(tmp_path: Path) -> None:
    """503 with Retry-After; the docs show its routes all the same."""
    async with served(tmp_path, shop(), far(), only=["shop"]) as (client, _):
        answer = await client.post("/far/x")
        assert answer.status_code == 503
        assert answer.json()["service"] == "far"
        assert int(answer.headers["retry-after"]) >= 1
        assert "/far/{name}" in (await client.get("/openapi.json")).json()["paths"]


async def test_what_a_dead_process_left_is_no_neighbour(tmp_path: Path) -> None:
    """Its address is forgotten by its missing sign of life, or when nobody answers there."""
    async with (
        served(tmp_path, shop(), far(), only=["far"]) as (_, other),
        served(tmp_path, shop(), far(), only=["shop"]) as (client, _),
    ):
        leave(tmp_path, "1-dead", "http://127.0.0.1:9")
        leave(tmp_path, "2-foreign", "http://203.0.113.1:80")
        (tmp_path / "run" / "3-broken.json").write_bytes(b"{")
        assert (await client.post("/far/x")).status_code == 200
        assert not (tmp_path / "run" / "1-dead.json").exists()
        mine = tmp_path / "run" / f"{other.owner}.json"
        assert mine.stat().st_mode & 0o777 == 0o600
        leave(tmp_path, other.owner, "http://127.0.0.1:9")
        assert (await client.post("/far/x")).status_code == 503
    assert not list((tmp_path / "run").glob(f"{other.owner}*"))


def leave(data: Path, owner: str, url: str) -> None:
    """An address as a process leaves it."""
    (data / "run" / f"{owner}.json").write_text(json.dumps({"owner": owner, "url": url, "services": ["far"]}))


async def test_nothing_goes_round_in_circles(tmp_path: Path) -> None:
    """A request that was passed on already is not passed on again."""
    async with (
        served(tmp_path, shop(), far(), only=["far"]),
        served(tmp_path, shop(), far(), only=["shop"]) as (client, _),
    ):
        assert (await client.post("/far/x", headers={"antiphon-hop": "someone"})).status_code == 503


async def test_a_service_of_another_machine_is_asked_where_it_was_said(tmp_path: Path) -> None:
    """Processes that share no directory, or one but not the loopback interface: what was said counts."""
    async with served(tmp_path / "there", shop(), far(), only=["far"]) as (there, _):
        said = {"far": str(there.base_url).rstrip("/")}
        async with served(tmp_path / "here", shop(), far(), only=["shop"], elsewhere=said) as (client, runtime):
            assert (await client.post("/far/x")).status_code == 200
            leave(tmp_path / "here", runtime.owner, "http://127.0.0.1:9")
            assert (await client.post("/far/x")).status_code == 200
        said = {"far": "http://127.0.0.1:9"}
        async with served(tmp_path / "here", shop(), far(), only=["shop"], elsewhere=said) as (client, _):
            assert (await client.post("/far/x")).status_code == 503


@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf an ans"])
async def test_a_service_that_breaks_off_is_told_apart(
    tmp_path: Path, said: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """502, also when it died in the middle of its answer: it may have taken effect, so it is not tried again."""

    async def slam(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(said)
        await writer.drain()
        writer.close()

    async with served(tmp_path, shop(), far(), only=["far"]) as (_, other):
        server = await asyncio.start_server(slam, "127.0.0.1", 0)
        async with server, served(tmp_path, shop(), far(), only=["shop"]) as (client, _):
            leave(tmp_path, other.owner, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
            assert (await client.post("/far/x")).status_code == 502
    assert not [record for record in caplog.records if record.exc_info]
