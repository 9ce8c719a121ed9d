"""What supervisors and Prometheus ask, and the server itself."""

from __future__ import annotations

import asyncio
import signal
import socket
import sqlite3
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from antiphon import App, Retry, Service
from antiphon.errors import AntiphonError
from antiphon.gateway import health
from antiphon.gateway.application import Gateway, build, serve
from tests.gateway.kit import PATIENCE_S, Ordered, billing, served, shop, until

pytestmark = pytest.mark.anyio


async def test_a_process_that_runs_is_live_and_ready(tmp_path: Path) -> None:
    """Both answer 200, also with a file per service."""
    async with served(tmp_path, shop(), billing(), own_stores=True) as (client, _):
        assert (await client.get("/livez")).json() == {"status": "live"}
        assert (await client.get("/readyz")).json() == {"status": "ready"}


async def test_a_store_that_cannot_be_written_is_not_ready(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """503 names the store and why; the process is live all the same, and ready again afterwards."""
    monkeypatch.setattr(health, "_PATIENCE_S", 0.05)
    async with served(tmp_path, shop()) as (client, runtime):
        foreign = sqlite3.connect(runtime.logs[0].path, isolation_level=None)
        try:
            foreign.execute("BEGIN IMMEDIATE")
            answer = await client.get("/readyz")
            assert answer.status_code == 503
            assert "app" in answer.json()["detail"]
            assert "write lock" in answer.json()["reason"]
            assert (await client.get("/livez")).status_code == 200
            foreign.execute("ROLLBACK")
        finally:
            foreign.close()
        assert (await client.get("/readyz")).status_code == 200


async def test_leases_that_ran_out_make_it_unready(tmp_path: Path) -> None:
    """A worker that could not renew its leases has not written for a while."""
    async with served(tmp_path, shop(), billing()) as (client, runtime):
        store = runtime.logs[0]
        await until(lambda: store.fetch_all("SELECT 1 FROM antiphon_handlers WHERE owner IS NOT NULL"))
        async with store.unit() as unit:
            await unit.execute("UPDATE antiphon_handlers SET lease_until_ms = 1")
        answer = await client.get("/readyz")
        assert answer.status_code == 503
        assert "leases" in answer.json()["reason"]


async def test_a_process_that_drains_is_not_ready(tmp_path: Path) -> None:
    """A load balancer learns of it before connections are refused."""
    app = App(shop(), name="app")
    async with app.run_in(tmp_path) as runtime:
        gateway = build(app, runtime)
        async with _client(gateway) as client:
            assert (await client.get("/readyz")).status_code == 200
            gateway.drain()
            assert (await client.get("/readyz")).status_code == 503
            assert (await client.get("/livez")).status_code == 200


async def test_metrics_tell_what_handlers_have_done_and_have_before_them(tmp_path: Path) -> None:
    """Handled, failed, lag and age, deliveries by status, per handler and per rule, and the WAL's size."""
    service, hold = Service("slow"), asyncio.Event()

    @service.on(Ordered, retry=Retry(attempts=1))
    async def wait(event: Ordered) -> None:
        if event.item == "bad":
            raise ValueError("bad")
        await hold.wait()

    async with served(tmp_path, shop(), service) as (client, _):
        await client.get("/metrics")  # what failed before this is not counted by rule
        await client.post("/orders", json={"id": "o1", "item": "bad"})

        async def failed() -> Any:
            found = await _metrics(client)
            return found if found["antiphon_handler_deliveries", "FAILED"] == 1 else None

        found = await until(failed)
        assert found["antiphon_handler_failed_invocations_total", "slow.wait"] == 1
        assert found["antiphon_rule_failed_invocations_total", "Ordered"] == 1
        assert found["antiphon_store_wal_bytes", "app"] > 0
        assert found["antiphon_handler_paused", "slow.wait"] == 0
        for number in range(3):
            await client.post("/orders", json={"id": f"p{number}", "item": "tea"})

        async def waiting() -> Any:
            found = await _metrics(client)
            return found if found["antiphon_handler_deliveries", "IN_PROGRESS"] == 1 else None

        found = await until(waiting)
        assert found["antiphon_handler_lag_events", "slow.wait"] == 2
        hold.set()

        async def done() -> bool:
            return (await _metrics(client))["antiphon_handler_handled_total", "slow.wait"] == 3

        await until(done)
        assert (await _metrics(client))["antiphon_handler_lag_events", "slow.wait"] == 0


async def _metrics(client: httpx.AsyncClient) -> dict[tuple[str, str], float]:
    """Samples by name and their most particular label."""
    answer = await client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    found = {}
    for family in text_string_to_metric_families(answer.text):
        for sample in family.samples:
            labels = sample.labels
            particular = labels.get("status") or labels.get("event_type") or labels.get("handler") or labels["store"]
            found[sample.name, particular] = sample.value
    return found


async def test_a_port_that_is_taken_is_said(tmp_path: Path) -> None:
    """An address that cannot be had is an error in our words, with what to do."""
    app = App(shop(), name="app")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        async with app.run_in(tmp_path) as runtime:
            with pytest.raises(AntiphonError, match="another program listens there"):
                async with serve(app, runtime, port=taken.getsockname()[1]):
                    pass
            with pytest.raises(AntiphonError, match="cannot listen"):
                async with serve(app, runtime, host="no.such.host.invalid"):
                    pass


async def test_signals_are_left_alone(tmp_path: Path) -> None:
    """The process decides what SIGTERM and SIGINT do, before, while and after it serves."""
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    async with served(tmp_path, shop()):
        assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


async def test_a_request_that_runs_ends_before_the_gateway_does(tmp_path: Path) -> None:
    """Stopping refuses new connections and lets what is in flight finish."""
    service, entered, go = Service("slow"), asyncio.Event(), asyncio.Event()

    @service.get("/slow")
    async def slow() -> dict[str, bool]:
        entered.set()
        await go.wait()
        return {"done": True}

    app = App(service, name="app")
    async with (
        asyncio.timeout(PATIENCE_S),
        app.run_in(tmp_path) as runtime,
        httpx.AsyncClient(trust_env=False) as client,
    ):
        async with serve(app, runtime, port=0) as address:
            asked = asyncio.ensure_future(client.get(f"{address.url}/slow"))
            await entered.wait()
            asyncio.get_running_loop().call_soon(go.set)
        assert (await asked).json() == {"done": True}
        with pytest.raises(httpx.ConnectError):
            await client.get(f"{address.url}/livez")


def _client(gateway: Gateway) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(gateway), base_url="http://gateway")
