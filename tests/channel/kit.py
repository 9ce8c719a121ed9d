"""An app between two foreign systems, and what must hold of it whatever breaks: all of it, each once, in order."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import sqlite3
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from antiphon import App, Event, Service, Transaction
from antiphon.policy import webhooks
from antiphon.runtime.clock import SystemClock
from antiphon.runtime.runtime import Runtime

PATIENCE_S = 60
KEYS = 7


class Got(Event, key="about"):
    """What comes in."""

    n: int
    about: str


class Passed(Event, key="about"):
    """What goes out for it."""

    n: int
    about: str


def about(number: int) -> str:
    """The key of a message."""
    return f"k{number % KEYS}"


def body(number: int) -> dict[str, Any]:
    """The data of a message."""
    return {"n": number, "about": about(number)}


def relay_app(
    url: str,
    places: Sequence[str],
    out: tuple[str, str] | None = None,
    *,
    name: str = "relay_test",
    own_stores: bool = True,
    options: dict[str, Any] | None = None,
) -> App:
    """An app that takes `Got`, notes it, and passes it on."""
    relay = Service("relay", tables="CREATE TABLE seen (n INTEGER, about TEXT)")

    @relay.on(Got)
    async def take(got: Got, tx: Transaction) -> Passed:
        await tx.execute("INSERT INTO seen VALUES (?, ?)", got.n, got.about)
        return Passed(n=got.n, about=got.about)

    app = App(relay, name=name, own_stores=own_stores)
    app.channel(url, name="upstream", inbound=dict.fromkeys(places, Got), options=options)
    if out is not None:
        app.channel(out[0], name="downstream", outbound={out[1]: Passed})
    return app


async def until(condition: Callable[..., Any], *about: Any) -> Any:
    """The condition's first value that is true. Raises AssertionError if there is none in time."""
    clock = SystemClock()
    end = clock.boot_ms() + PATIENCE_S * 1000
    while True:
        value = condition(*about)
        if isinstance(value, Awaitable):
            value = await value
        if value:
            return value
        assert clock.boot_ms() < end, f"after {PATIENCE_S} s there is still nothing"
        await clock.sleep(0.02)


async def seen_in(runtime: Runtime) -> list[int]:
    """What the relay has noted, in its order."""
    return [row[0] for row in await runtime.store_of("relay").fetch_all("SELECT n FROM seen ORDER BY rowid")]


def seen_at(data: Path) -> list[int]:
    """The same, looked at from outside of the processes that run it."""
    path = data / "relay.db"
    if not path.exists():
        return []
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=10)) as connection:
        try:
            return [n for (n,) in connection.execute("SELECT n FROM seen ORDER BY rowid")]
        except sqlite3.OperationalError as error:
            assert "no such table" in str(error)
            return []


def once_in_order(numbers: Iterable[int], expected: Iterable[int]) -> None:
    """Assert that *numbers* are all of *expected*, each once, and of each key in order."""
    found = list(numbers)
    assert sorted(found) == sorted(expected)
    for rest in range(KEYS):
        of_key = [n for n in found if n % KEYS == rest]
        assert of_key == sorted(of_key)


def once_by_id(events: Iterable[dict[str, Any]]) -> list[int]:
    """The numbers of CloudEvents, each as it came first: what a receiver has that knows ids."""
    first: dict[str, int] = {}
    for event in events:
        first.setdefault(event["id"], event["data"]["n"])
    return list(first.values())


def signed(body: bytes, message_id: str, key: bytes, at_s: int) -> dict[str, str]:
    """The headers of a webhook that was signed with *key*."""
    signature = hmac.new(key, f"{message_id}.{at_s}.".encode() + body, hashlib.sha256).digest()
    return {
        webhooks.ID: message_id,
        webhooks.TIMESTAMP: str(at_s),
        webhooks.SIGNATURE: f"v1,{base64.b64encode(signature).decode()}",
        "content-type": "application/json",
    }


def environment(**relay: Any) -> dict[str, str]:
    """What `tests.channel.member` is told."""
    return {"RELAY": json.dumps(relay)}
