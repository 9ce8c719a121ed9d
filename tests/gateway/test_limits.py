"""How large a request may be."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from starlette.requests import Request

from antiphon import Service
from tests.gateway.kit import served

pytestmark = pytest.mark.anyio

LIMIT = 10_000


def echo() -> Service:
    """Tells how much came."""
    service = Service("echo")

    @service.post("/echo")
    async def tell(request: Request) -> dict[str, int]:
        return {"bytes": len(await request.body())}

    @service.post("/json")
    async def read(found: dict[str, str]) -> dict[str, int]:
        return {"fields": len(found)}

    return service


async def chunks(total: int) -> AsyncIterator[bytes]:
    """A body without a declared length."""
    for start in range(0, total, 1_000):
        yield b"x" * min(1_000, total - start)


async def test_a_body_at_the_limit_is_taken(tmp_path: Path) -> None:
    """With and without a declared length."""
    async with served(tmp_path, echo(), max_body=LIMIT) as (client, _):
        assert (await client.post("/echo", content=b"x" * LIMIT)).json() == {"bytes": LIMIT}
        assert (await client.post("/echo", content=chunks(LIMIT))).json() == {"bytes": LIMIT}


@pytest.mark.parametrize("path", ["/echo", "/json"])
async def test_a_body_beyond_the_limit_is_refused(tmp_path: Path, path: str) -> None:
    """413 as a problem, whether its length was declared or found out while it streamed in."""
    async with served(tmp_path, echo(), max_body=LIMIT) as (client, _):
        for content in (b"x" * (LIMIT + 1), chunks(LIMIT + 1)):
            answer = await client.post(path, content=content, headers={"content-type": "application/json"})
            assert answer.status_code == 413
            assert answer.json()["limit_bytes"] == LIMIT
        assert (await client.post("/echo", content=b"x")).json() == {"bytes": 1}


async def test_a_declared_length_is_refused_before_the_body_comes(tmp_path: Path) -> None:
    """Nobody has to send a terabyte to learn that it is too much."""
    async with served(tmp_path, echo(), max_body=LIMIT) as (client, _):
        url = urlsplit(str(client.base_url))
        reader, writer = await asyncio.open_connection(url.hostname, url.port)
        writer.write(b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000000\r\n\r\n")
        assert b" 413 " in await asyncio.wait_for(reader.readline(), 10)
        writer.close()
        await writer.wait_closed()


async def test_a_head_is_bounded(tmp_path: Path) -> None:
    """A request whose head does not end is not collected for ever."""
    async with served(tmp_path, echo()) as (client, _):
        url = urlsplit(str(client.base_url))
        reader, writer = await asyncio.open_connection(url.hostname, url.port)
        writer.write(b"GET /livez HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 1_000_000)
        assert b" 400 " in await asyncio.wait_for(reader.readline(), 10)
        writer.close()
