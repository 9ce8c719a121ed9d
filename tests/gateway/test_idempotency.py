"""Idempotency-Key: a request that is sent again takes effect once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import HTTPException
from fastapi.responses import JSONResponse, StreamingResponse

from antiphon import Event, Service, Transaction
from tests.gateway.kit import rows, served, shop

pytestmark = pytest.mark.anyio

KEY = {"Idempotency-Key": "k-1"}
ORDER = {"id": "o1", "item": "tea"}


class Charged(Event, key="n"):
    n: int


async def test_the_same_request_is_answered_the_same_and_has_one_effect(tmp_path: Path) -> None:
    """The second answer is the first, byte for byte, marked as replayed."""
    async with served(tmp_path, shop()) as (client, runtime):
        first = await client.post("/orders", json=ORDER, headers=KEY)
        again = await client.post("/orders", json=ORDER, headers=KEY)
        quoted = await client.post("/orders", json=ORDER, headers={"Idempotency-Key": '"k-1"'})
        assert first.status_code == again.status_code == 202
        assert first.content == again.content == quoted.content
        assert "idempotency-replayed" not in first.headers
        assert again.headers["idempotency-replayed"] == "true"
        assert first.headers["location"] == again.headers["location"]
        assert first.headers["link"] == again.headers["link"]
        assert len(await rows(runtime, "SELECT 1 FROM antiphon_log")) == 1
        other = await client.post("/orders", json={**ORDER, "id": "o2"}, headers={"Idempotency-Key": "k-2"})
        assert other.json()["order_id"] == "o2"


async def test_the_answer_survives_a_restart(tmp_path: Path) -> None:
    """It lies in the store, not in the process."""
    async with served(tmp_path, shop()) as (client, _):
        first = await client.post("/orders", json=ORDER, headers=KEY)
    async with served(tmp_path, shop()) as (client, _):
        again = await client.post("/orders", json=ORDER, headers=KEY)
        assert again.content == first.content


@pytest.mark.parametrize("change", [{"json": {**ORDER, "item": "coffee"}}, {"headers": {"Authorization": "Bearer x"}}])
async def test_a_key_belongs_to_one_request(tmp_path: Path, change: dict[str, Any]) -> None:
    """Another body, or another sender, is refused and does nothing."""
    async with served(tmp_path, shop()) as (client, runtime):
        await client.post("/orders", json=ORDER, headers=KEY)
        changed = {"json": ORDER, **change, "headers": {**KEY, **change.get("headers", {})}}
        other = await client.post("/orders", **changed)
        assert other.status_code == 422
        assert other.json()["type"].endswith("idempotency-key-reused")
        assert len(await rows(runtime, "SELECT 1 FROM antiphon_log")) == 1


@pytest.mark.parametrize("key", ["", "x" * 256, "täg".encode().decode("latin-1"), "a\tb"])
async def test_a_key_that_is_none_is_refused(tmp_path: Path, key: str) -> None:
    """A key has 1 to 255 printable ASCII characters."""
    async with served(tmp_path, shop()) as (client, _):
        answer = await client.post("/orders", json=ORDER, headers=[(b"Idempotency-Key", key.encode("latin-1"))])
        assert answer.status_code == 400
        assert answer.json()["field"] == "header Idempotency-Key"


async def test_a_failure_is_not_kept(tmp_path: Path) -> None:
    """After an error answer the same key may try again."""
    service, tries = Service("card"), []

    @service.post("/charges")
    async def charge() -> Any:
        tries.append(1)
        if len(tries) == 1:
            raise HTTPException(503, "not now")
        if len(tries) == 2:
            return JSONResponse({"no": 1}, 402)
        return {"charged": len(tries)}

    async with served(tmp_path, service) as (client, _):
        answers = [await client.post("/charges", headers=KEY) for _ in range(4)]
        assert [answer.status_code for answer in answers] == [503, 402, 200, 200]
        assert answers[3].json() == {"charged": 3}


async def test_of_two_at_once_one_runs(tmp_path: Path) -> None:
    """The others wait for its answer and get it."""
    service, started, go = Service("card"), asyncio.Event(), asyncio.Event()
    runs = []

    @service.post("/charges")
    async def charge() -> Charged:
        runs.append(1)
        started.set()
        await go.wait()
        return Charged(len(runs))

    async with served(tmp_path, service) as (client, runtime):
        waiting = [asyncio.ensure_future(client.post("/charges", headers=KEY)) for _ in range(5)]
        await started.wait()
        go.set()
        answers = await asyncio.gather(*waiting)
        assert len(runs) == 1
        assert len({answer.content for answer in answers}) == 1
        assert sorted(answer.headers.get("idempotency-replayed", "") for answer in answers) == ["", *["true"] * 4]
        assert len(await rows(runtime, "SELECT 1 FROM antiphon_log")) == 1


async def test_of_two_processes_one_takes_effect(tmp_path: Path) -> None:
    """Where two run at the same time, the later one to commit is undone, and gives the other's answer."""
    arrived, meet = [], asyncio.Event()

    def card() -> Service:
        service = Service("card", tables="CREATE TABLE IF NOT EXISTS charges (n INT);")

        @service.post("/charges")
        async def charge(tx: Transaction) -> Charged:
            arrived.append(1)
            mine = len(arrived)
            if mine == 2:
                meet.set()
            await meet.wait()
            await tx.execute("INSERT INTO charges VALUES (?)", mine)
            return Charged(mine)

        return service

    async with served(tmp_path, card()) as (one, runtime), served(tmp_path, card()) as (two, _):
        answers = await asyncio.gather(one.post("/charges", headers=KEY), two.post("/charges", headers=KEY))
        assert len(arrived) == 2
        assert answers[0].content == answers[1].content
        assert sorted("idempotency-replayed" in answer.headers for answer in answers) == [False, True]
        assert len(await rows(runtime, "SELECT 1 FROM charges")) == 1
        assert len(await rows(runtime, "SELECT 1 FROM antiphon_log")) == 1


async def test_a_stream_takes_no_key(tmp_path: Path) -> None:
    """An answer that streams cannot be kept, and so its effects are undone."""
    service = Service("card", tables="CREATE TABLE IF NOT EXISTS charges (n INT);")

    @service.post("/charges")
    async def charge(tx: Transaction) -> StreamingResponse:
        await tx.execute("INSERT INTO charges VALUES (1)")

        async def parts() -> AsyncIterator[bytes]:
            yield b"one"

        return StreamingResponse(parts())

    async with served(tmp_path, service) as (client, runtime):
        assert (await client.post("/charges", headers=KEY)).status_code == 400
        assert not await rows(runtime, "SELECT 1 FROM charges")
        assert (await client.post("/charges")).text == "one"


async def test_reading_ignores_keys(tmp_path: Path) -> None:
    """A GET has no effect to repeat."""
    async with served(tmp_path, shop()) as (client, runtime):
        assert (await client.get("/orders/o1", headers=KEY)).status_code == 200
        assert not await rows(runtime, "SELECT 1 FROM antiphon_idempotency")
