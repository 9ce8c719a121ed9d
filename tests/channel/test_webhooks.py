"""Webhooks: who has the secret is heard, once; nobody else is."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from antiphon import App, Service, Transaction
from antiphon.channel.webhook import Desk
from antiphon.errors import DeclarationError
from antiphon.gateway.application import serve
from antiphon.policy import webhooks
from antiphon.runtime.runtime import Runtime
from tests.channel.kit import Got, Passed, seen_in, signed, until

pytestmark = pytest.mark.anyio

CASES = Path(__file__).resolve().parents[3] / "shared" / "cases" / "webhook_cases.json"
KEY = b"0123456789abcdef01234567"
SECRET = "whsec_" + base64.b64encode(KEY).decode()


def hooked(**options: Any) -> App:
    """An app that takes webhooks of two kinds."""
    relay = Service("relay", tables="CREATE TABLE seen (n INTEGER, about TEXT)")

    @relay.on(Got)
    async def take(got: Got, tx: Transaction) -> None:
        await tx.execute("INSERT INTO seen VALUES (?, ?)", got.n, got.about)

    @relay.on(Passed)
    async def ignore(passed: Passed) -> None: ...

    app = App(relay, name="hooked", own_stores=True)
    app.channel("webhook://", name="shop", inbound={"got": Got, "passed": Passed}, options=options)
    return app


@asynccontextmanager
async def served(app: App, data: Path) -> AsyncIterator[tuple[httpx.AsyncClient, Runtime]]:
    """The app behind its gateway."""
    async with (
        app.run_in(data) as runtime,
        serve(app, runtime, port=0) as address,
        httpx.AsyncClient(base_url=address.url, trust_env=False) as client,
    ):
        yield client, runtime


async def send(
    client: httpx.AsyncClient,
    runtime: Runtime,
    data: object,
    message_id: str = "msg_1",
    key: bytes = KEY,
    late_s: int = 0,
) -> httpx.Response:
    """A webhook, signed with *key*."""
    body = data if isinstance(data, bytes) else json.dumps(data).encode()
    headers = signed(body, message_id, key, runtime.clock.now_ms() // 1000 - late_s)
    return await client.post("/channels/shop", content=body, headers=headers)


async def has_seen(runtime: Runtime, numbers: list[int]) -> bool:
    """Whether the relay has noted just these."""
    return await seen_in(runtime) == numbers


async def test_a_webhook_is_taken_once(tmp_path: Path) -> None:
    """What is sent again under the same id is accepted, and does nothing."""
    async with served(hooked(secret=SECRET), tmp_path) as (client, runtime):
        first = {"type": "got", "timestamp": "2026-01-01T00:00:00Z", "data": {"n": 1, "about": "a"}}
        for _ in range(3):
            assert (await send(client, runtime, first)).status_code == 202
        second = {"type": "got", "data": {"n": 2, "about": "a"}}
        assert (await send(client, runtime, second, "msg_2")).json() == {"accepted": ["shop:msg_2"]}
        await until(has_seen, runtime, [1, 2])


async def test_what_is_not_signed_is_refused(tmp_path: Path) -> None:
    """Another key, an old time, no signature: 401, and nothing is kept of it."""
    async with served(hooked(secret=["whsec_" + base64.b64encode(b"old").decode(), SECRET]), tmp_path) as (
        client,
        runtime,
    ):
        got = {"type": "got", "data": {"n": 1, "about": "a"}}
        assert (await send(client, runtime, got, key=b"another")).status_code == 401
        assert (await send(client, runtime, got, late_s=400)).status_code == 401
        assert (await client.post("/channels/shop", json=got)).status_code == 401
        assert await runtime.store_of("shop").head() == 0
        assert (await send(client, runtime, got, key=b"old")).status_code == 202


async def test_what_cannot_be_read_is_kept(tmp_path: Path) -> None:
    """It is refused with the field and the reason, and is a dead letter with its bytes."""
    async with served(hooked(secret=SECRET), tmp_path) as (client, runtime):
        answer = await send(client, runtime, {"type": "got", "data": {"n": "x", "about": "a"}})
        assert answer.status_code == 422
        assert answer.json()["field"] == "$.n"
        assert (await runtime.store_of("shop").head()) == 1


async def test_a_plain_signature_of_the_body(tmp_path: Path) -> None:
    """Senders that sign but the body, in a header of their own, with an id in another."""
    app = hooked(secret="hush", signature="X-Hub-Signature-256", id="X-Delivery")
    async with served(app, tmp_path) as (client, _):
        body = b'{"type": "got", "data": {"n": 4, "about": "b"}}'
        digest = hmac.new(b"hush", body, hashlib.sha256).hexdigest()
        for signature, status in ((f"sha256={digest}", 202), (digest, 202), (digest[:-1], 401), ("", 401)):
            headers = {"x-hub-signature-256": signature, "x-delivery": "d1", "content-type": "application/json"}
            answer = await client.post("/channels/shop", content=body, headers=headers)
            assert answer.status_code == status


@pytest.mark.parametrize("options", [{}, {"secret": "not base64!"}, {"secret": []}])
def test_a_secret_that_cannot_be_used_is_said_at_once(options: dict[str, Any]) -> None:
    """Without one, anybody could send events."""
    with pytest.raises(DeclarationError, match="secret"):
        hooked(**options)


@pytest.mark.skipif(not CASES.exists(), reason="the cases of Standard Webhooks are not beside the checkout")
def test_the_cases_of_standard_webhooks() -> None:
    """The signatures that the reference libraries take and refuse."""
    for case in json.loads(CASES.read_text()):
        keys = [webhooks.key_of(case["secret"])]
        body = case["payload"].encode()
        found = webhooks.is_standard(keys, case["headers"], body, case["now"], case["tolerance_s"])
        assert found == (case["expected"] == "valid"), case["name"]


@pytest.mark.parametrize("body", [b'{"\xff": 1}', b'{"type": "\xff"}', b"\xff", b"[" * 100_000])
def test_a_signed_body_that_is_no_text_is_a_message(body: bytes) -> None:
    """What is wrong with it is said by who reads it, and the sender is not told to send it again and again."""
    channel = hooked(secret=base64.b64encode(b"k" * 24).decode()).channels["shop"]
    assert Desk(channel).message({}, body).body == body
