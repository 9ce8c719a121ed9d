"""What has become of accepted work, and what happens to it while one looks."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from antiphon import App, Event, Service
from antiphon.gateway import events
from antiphon.gateway.application import serve
from antiphon.gateway.history import Reader
from antiphon.store.desk import Desk
from tests.gateway.kit import PATIENCE_S, Ordered, Paid, billing, followed, messages, served, shop, until

pytestmark = pytest.mark.anyio

TEA = {"id": "o1", "item": "tea"}
DEAR = {"id": "o2", "item": "gold", "cents": 5_000}
CURSED = {"id": "o3", "item": "cursed"}


@pytest.mark.parametrize("own_stores", [False, True])
async def test_a_customer_sees_the_payment_fail_with_its_reason(tmp_path: Path, own_stores: bool) -> None:
    """The stream tells each event of the process as it happens, with its data."""
    async with served(tmp_path, shop(), billing(), own_stores=own_stores) as (client, _):
        accepted = (await client.post("/orders", json=DEAR)).json()
        told = await followed(client, accepted["stream"], "PaymentFailed")
        assert [message["event"] for message in told] == ["Ordered", "PaymentFailed"]
        failed = json.loads(told[1]["data"])
        assert failed["data"] == {"order_id": "o2", "reason": "card declined"}
        assert failed["causation_id"] == accepted["event_id"]
        assert failed["service"] == "billing"


@pytest.mark.parametrize("own_stores", [False, True])
async def test_what_has_become_of_a_process(tmp_path: Path, own_stores: bool) -> None:
    """Every event once, below its cause, with the deliveries: who handled it, and how often it was tried."""
    async with served(tmp_path, shop(), billing(), own_stores=own_stores) as (client, _):
        accepted = (await client.post("/orders", json=TEA)).json()
        await followed(client, accepted["stream"], "Paid")
        found = (await client.get(accepted["events"])).json()
        assert found["correlation_id"] == accepted["correlation_id"]
        assert found["stream"] == accepted["stream"]
        assert [(each["type"], each["depth"], each["key"]) for each in found["events"]] == [
            ("Ordered", 0, "o1"),
            ("Paid", 1, "o1"),
        ]
        [delivery] = found["events"][0]["deliveries"]
        assert (delivery["handler"], delivery["status"], delivery["attempts"]) == ("billing.pay", "COMPLETED", 1)
        assert found["events"][0]["time"].endswith("Z")


async def test_a_dead_letter_is_seen_with_its_reason(tmp_path: Path) -> None:
    """A delivery that was refused says so; no traceback goes out."""
    async with served(tmp_path, shop(), billing()) as (client, _):
        accepted = (await client.post("/orders", json=CURSED)).json()

        async def dead() -> Any:
            found = (await client.get(accepted["events"])).json()["events"][0]["deliveries"]
            return found if found and found[0]["status"] == "ERROR" else None

        [delivery] = await until(dead)
        assert "we do not sell cursed items" in delivery["reason"]
        assert "Traceback" not in json.dumps(delivery)


@pytest.mark.parametrize("path", ["/events/nobody", "/events/nobody/stream"])
async def test_an_unknown_process_is_not_found(tmp_path: Path, path: str) -> None:
    """404; so is the id of an event inside a process, which is no process of its own."""
    async with served(tmp_path, shop(), billing()) as (client, _):
        assert (await client.get(path)).json()["type"] == "urn:antiphon:problem:unknown-process"
        accepted = (await client.post("/orders", json=TEA)).json()
        later = json.loads((await followed(client, accepted["stream"], "Paid"))[1]["data"])["id"]
        assert (await client.get(f"/events/{later}")).status_code == 404


@pytest.mark.parametrize("own_stores", [False, True])
async def test_a_stream_goes_on_after_the_last_event_that_was_seen(tmp_path: Path, own_stores: bool) -> None:
    """With Last-Event-ID what was told is not told again, though several logs have it; nothing is left out."""
    async with served(tmp_path, shop(), billing(), own_stores=own_stores) as (client, _):
        accepted = (await client.post("/orders", json=TEA)).json()
        told = await followed(client, accepted["stream"], "Paid")
        resumed = await followed(client, accepted["stream"], "Paid", **{"Last-Event-ID": told[0]["id"]})
        assert [message["event"] for message in resumed] == ["Paid"]
        again = await followed(client, accepted["stream"], "Paid", **{"Last-Event-ID": "nonsense"})
        assert [message["event"] for message in again] == ["Ordered", "Paid"]
        async with client.stream("GET", accepted["stream"], headers={"Last-Event-ID": told[1]["id"]}) as answer:
            assert await anext(messages(answer.aiter_lines())) == {"": "still here"}


async def test_a_stream_tells_what_comes_later(tmp_path: Path) -> None:
    """A stream that has told everything wakes when more is committed, and only for its own process."""
    service, hold = Service("slow"), asyncio.Event()

    @service.on(Ordered)
    async def wait(event: Ordered) -> Paid:
        await hold.wait()
        return Paid(event.order_id)

    async with served(tmp_path, shop(), service) as (client, _):
        accepted = (await client.post("/orders", json=TEA)).json()
        async with asyncio.timeout(PATIENCE_S), client.stream("GET", accepted["stream"]) as answer:
            told = messages(answer.aiter_lines())
            assert (await anext(told))["event"] == "Ordered"
            await client.post("/orders", json={"id": "o9", "item": "tea"})
            hold.set()
            message = await anext(told)
            assert message["event"] == "Paid"
            assert json.loads(message["data"])["key"] == "o1"


async def test_a_quiet_stream_has_a_heartbeat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A comment now and then keeps proxies from closing it."""
    monkeypatch.setattr(events, "_HEARTBEAT_MS", 5)
    async with served(tmp_path, shop()) as (client, _):
        accepted = (await client.post("/orders", json=TEA)).json()
        async with asyncio.timeout(PATIENCE_S), client.stream("GET", accepted["stream"]) as answer:
            told = messages(answer.aiter_lines())
            assert "event" in await anext(told)
            assert [await anext(told) for _ in range(2)] == [{"": "still here"}] * 2


async def test_streams_are_bounded_and_a_client_that_goes_makes_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One too many is told to come back; a client that went away is noticed."""
    monkeypatch.setattr(events, "MAX_STREAMS", 1)
    async with served(tmp_path, shop()) as (client, _):
        accepted = (await client.post("/orders", json=TEA)).json()
        async with client.stream("GET", accepted["stream"]) as first:
            await anext(messages(first.aiter_lines()))
            refused = await client.get(accepted["stream"])
            assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")

        async def has_room() -> bool:
            async with client.stream("GET", accepted["stream"]) as answer:
                return answer.status_code == 200

        await until(has_room)


async def test_streams_end_with_the_gateway(tmp_path: Path) -> None:
    """Stopping does not wait for those who follow: their streams end, properly and at once."""
    app, stop, stopped = App(shop(), name="app"), asyncio.Event(), asyncio.Event()
    url: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def run() -> None:
        async with app.run_in(tmp_path) as runtime, serve(app, runtime, port=0, grace_s=600) as address:
            url.set_result(address.url)
            await stop.wait()
        stopped.set()

    running = asyncio.ensure_future(run())
    async with asyncio.timeout(PATIENCE_S), httpx.AsyncClient(base_url=await url, trust_env=False) as client:
        accepted = (await client.post("/orders", json=TEA)).json()
        async with client.stream("GET", accepted["stream"]) as answer:
            told = messages(answer.aiter_lines())
            assert (await anext(told))["event"] == "Ordered"
            stop.set()
            assert [message async for message in told if "event" in message] == []
        await stopped.wait()
    await running


class Step(Event, key="n"):
    n: str


async def test_a_long_process_is_read_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More events than are read at once: each is told once, in order, and a place in the middle is found."""
    monkeypatch.setattr("antiphon.gateway.history._CHUNK", 4)
    service = Service("long")

    @service.post("/long")
    async def many() -> list[Step]:
        return [Step(str(n)) for n in range(11)]

    async with served(tmp_path, service) as (client, runtime):
        correlation = (await client.post("/long")).json()["correlation_id"]
        desks = [Desk(store) for store in runtime.logs]
        reader = Reader(desks, correlation)
        told = [(place, event.key) async for place, event in reader.read()]
        assert [key for _, key in told] == [str(n) for n in range(11)]
        resumed = Reader(desks, correlation)
        await resumed.skip([int(told[5][0])])
        assert [event.key async for _, event in resumed.read()] == [str(n) for n in range(6, 11)]
