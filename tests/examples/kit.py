"""The examples behind their gateways, in this process or in one for each service; and a mail server."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default
from pathlib import Path
from typing import Any

import httpx
from aiosmtpd.smtp import SMTP, Envelope, Session

from antiphon import App
from antiphon.demo.chance import Chance
from antiphon.demo.subject import Subject
from antiphon.gateway.application import serve

CHECKOUT = Path(__file__).parents[2]
PATIENCE_S = 60


@asynccontextmanager
async def in_one_process(
    app: App, data: Path, bus: str | None = None, store: str | None = None
) -> AsyncIterator[httpx.AsyncClient]:
    """All services of *app* in this process, and a client of the gateway."""
    async with (
        app.run_in(data, bus=bus, store=store) as runtime,
        serve(app, runtime, port=0) as address,
        client_of(address.url) as client,
    ):
        yield client


@asynccontextmanager
async def in_a_process_each(reference: str, services: Sequence[str], data: Path) -> AsyncIterator[httpx.AsyncClient]:
    """Each of *services* in a process of its own, and a client of the first one's gateway."""
    async with AsyncExitStack() as stack:
        # They start side by side.
        urls = await asyncio.gather(
            *(stack.enter_async_context(process_of(reference, each, data)) for each in services)
        )
        yield await stack.enter_async_context(client_of(urls[0]))


@asynccontextmanager
async def process_of(reference: str, service: str, data: Path) -> AsyncIterator[str]:
    """``antiphon run`` for one service, once it is ready; yields its gateway's address."""
    command = ("-m", "antiphon", "run", reference, "--services", service, "--data", str(data), "--port", "0", "--json")
    data.mkdir(parents=True, exist_ok=True)
    with (data / f"{service}.stderr").open("wb") as errors:
        process = await asyncio.create_subprocess_exec(
            sys.executable, *command, cwd=CHECKOUT, stdout=asyncio.subprocess.PIPE, stderr=errors, env={**os.environ}
        )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(PATIENCE_S):
            ready = await process.stdout.readline()
        assert ready, (data / f"{service}.stderr").read_text(encoding="utf-8")
        yield json.loads(ready)["url"]
    finally:
        process.terminate()
        await process.communicate()
    assert process.returncode == 0, (data / f"{service}.stderr").read_text(encoding="utf-8")


def client_of(url: str) -> httpx.AsyncClient:
    """A client of the gateway at *url*."""
    return httpx.AsyncClient(base_url=url, trust_env=False, timeout=PATIENCE_S)


async def shown(client: httpx.AsyncClient, path: str, ready: Callable[[Any], bool]) -> Any:
    """What *path* shows as soon as it is *ready*; fails if it is not in time."""
    found: Any = None
    try:
        async with asyncio.timeout(PATIENCE_S):
            while True:
                answer = await client.get(path)
                found = answer.raise_for_status().json()
                if ready(found):
                    return found
    except TimeoutError:
        raise AssertionError(f"{path} still shows {found}") from None


async def ends_of_enrollments(client: httpx.AsyncClient) -> dict[str, tuple[str, int]]:
    """Enroll a customer in a plan with a bonus and one in a plan without: the status and points of each at the end."""
    ends = {}
    for plan in ("gold", "basic"):
        body = {"name": "Ada Lovelace", "email": "ada@example.com", "plan": plan}
        customer = (await client.post("/enrollments", json=body)).raise_for_status().json()["customer_id"]
        seen = await shown(client, f"/customers/{customer}", lambda seen: seen["status"] != "PENDING")
        ends[plan] = (seen["status"], seen["points"])
    return ends


ENDS_OF_ENROLLMENTS = {"gold": ("ENROLLED", 500), "basic": ("UNENROLLED", 0)}


async def booked(client: httpx.AsyncClient, subject: Subject, first: int, count: int) -> list[str]:
    """Post the requests of *subject* from *first* on at once, each again until it is accepted: 503 says that it may
    be. Their ids."""

    async def one(number: int) -> str:
        body, headers = subject.request(Chance(1), number), {"Idempotency-Key": f"request-{number}"}
        while True:
            answer = await client.post(subject.path, json=body, headers=headers)
            if answer.status_code != httpx.codes.SERVICE_UNAVAILABLE:
                return str(answer.raise_for_status().json()[subject.id_field])

    return await asyncio.gather(*(one(number) for number in range(first, first + count)))


async def all_ended(client: httpx.AsyncClient, subject: Subject, accepted: Sequence[str]) -> Counter[str]:
    """How many of what was *accepted* have come to which end, once all have."""
    seen = [
        await shown(client, f"{subject.path}/{each}", lambda seen: seen["status"] in subject.ends) for each in accepted
    ]
    return Counter(each["status"] for each in seen)


class Mailbox:
    """What a mail server was sent. It refuses the next *refusing* e-mails for the time being."""

    def __init__(self) -> None:
        self.messages: list[EmailMessage] = []
        self.refused: list[EmailMessage] = []
        self.refusing = 0
        self._came = asyncio.Condition()

    async def handle_DATA(self, _server: SMTP, _session: Session, envelope: Envelope) -> str:  # noqa: N802  aiosmtpd names it
        """Take one e-mail, as aiosmtpd calls it."""
        assert isinstance(envelope.content, bytes)
        message = message_from_bytes(envelope.content, policy=default)
        assert isinstance(message, EmailMessage)
        if self.refusing:
            self.refusing -= 1
            self.refused.append(message)
            return "451 Try again later"
        async with self._came:
            self.messages.append(message)
            self._came.notify_all()
        return "250 OK"

    async def holding(self, count: int) -> list[EmailMessage]:
        """All messages, once there are *count*."""
        async with asyncio.timeout(PATIENCE_S), self._came:
            await self._came.wait_for(lambda: len(self.messages) >= count)
        return self.messages


@asynccontextmanager
async def mail_server() -> AsyncIterator[tuple[Mailbox, int]]:
    """A real SMTP server on an ephemeral port of the loopback interface."""
    mailbox = Mailbox()
    server = await asyncio.get_running_loop().create_server(lambda: SMTP(mailbox), "127.0.0.1", 0)
    async with server:
        yield mailbox, server.sockets[0].getsockname()[1]
