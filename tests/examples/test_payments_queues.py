"""Payments between message queues: RabbitMQ upstream, Kafka downstream, Redis inside; and folders where none is."""

from __future__ import annotations

import asyncio
import importlib
import json
import uuid
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import aiormq
import pytest
from confluent_kafka import Consumer, TopicPartition
from pamqp.commands import Basic

from antiphon import App
from antiphon.demo.audit import audit
from antiphon.demo.chance import Chance
from antiphon.demo.fleet import Fleet
from antiphon.policy.choreography import check
from antiphon.testing.conformance.engines import named_bus
from antiphon.testing.kafka import KafkaServer
from antiphon.testing.servers import running
from examples.payments_stp.demo import payment, subject
from tests.channel.kit import until
from tests.conftest import require
from tests.servers import engine_called, url_of

pytestmark = pytest.mark.anyio

PAYMENTS, KILLS = 60, 3
Answers = dict[str, tuple[str, str]]


def ordered(number: int) -> dict[str, Any]:
    """What an upstream system sends: some of it mistyped, some refused by the ledger."""
    return {"payment_id": f"p{number}", **payment(Chance(3), number)}


def app_between(monkeypatch: pytest.MonkeyPatch, **told: str) -> App:
    """The app, told so by its environment."""
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    app: App = importlib.reload(importlib.import_module("examples.payments_stp.queues")).app
    return app


class Upstream:
    """A system that orders over RabbitMQ, and is answered there."""

    def __init__(self, channel: Any, prefix: str) -> None:
        self._channel = channel
        self._prefix = prefix
        self.answers: list[dict[str, Any]] = []
        self.ids: list[str] = []

    async def order(self, number: int) -> None:
        """Send one payment, twice, as who is not sure that it has arrived."""
        properties = Basic.Properties(message_id=f"order-{number}", content_type="application/json", delivery_mode=2)
        for _ in range(2):
            body = json.dumps(ordered(number)).encode()
            await self._channel.basic_publish(body, routing_key=f"{self._prefix}.ordered", properties=properties)

    async def take(self, message: Any) -> None:
        """An answer. One that comes again has the id that it had."""
        event_id = message.header.properties.message_id
        if event_id not in self.ids:
            self.ids.append(event_id)
            self.answers.append(json.loads(message.body))


@asynccontextmanager
async def upstream_at(url: str, prefix: str) -> AsyncIterator[Upstream]:
    """Its two queues."""
    connection = await aiormq.connect(url)
    channel = await connection.channel()
    queues = [f"{prefix}.ordered", f"{prefix}.answered"]
    try:
        for queue in queues:
            await channel.queue_declare(queue, durable=True, arguments={"x-queue-type": "quorum"})
        system = Upstream(channel, prefix)
        await channel.basic_consume(queues[1], system.take, no_ack=True)
        yield system
    finally:
        for queue in queues:
            await channel.queue_delete(queue)
        await connection.close()


async def test_payments_between_queues_with_processes_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything ordered is paid or rejected once, both sides are told the same, and the books balance."""
    require("lifetimes", find_spec("lifetimes") is not None)
    require("Kafka's mock cluster", KafkaServer.is_there())
    rabbitmq, redis = await url_of(engine_called("rabbitmq")), await url_of(engine_called("redis"))
    prefix = f"payments_{uuid.uuid4().hex[:12]}"
    async with running(KafkaServer) as kafka, upstream_at(rabbitmq, prefix) as upstream:
        assert isinstance(kafka, KafkaServer)
        await kafka.make_topic(f"{prefix}.reported", 3)
        told = {"PAYMENTS_UPSTREAM": rabbitmq, "PAYMENTS_DOWNSTREAM": kafka.url, "PAYMENTS_PREFIX": prefix}
        app = app_between(monkeypatch, **told)
        assert check(app.all_specs) == []
        async with named_bus(redis, {*app.services, *app.channels}) as bus:
            members = {"one": ["orders", "upstream", "service_a"], "two": ["service_b", "service_c"]}
            members["three"] = ["downstream", "reports"]
            environment = {**told, "ANTIPHON_BUS": bus}
            fleet = Fleet("examples.payments_stp.queues:app", tmp_path, members, environment)
            try:
                await fleet.start(members)
                for kill in range(KILLS):
                    for number in range(kill * PAYMENTS // KILLS, (kill + 1) * PAYMENTS // KILLS):
                        await upstream.order(number)
                    await until(lambda kill=kill: len(upstream.answers) > kill * PAYMENTS // KILLS)
                    victim = list(members)[kill]
                    await fleet.kill([victim])
                    await fleet.start([victim])
                await until(lambda: len(upstream.answers) >= PAYMENTS)
                reported = await until(lambda: _reported(kafka.url, f"{prefix}.reported", PAYMENTS))
                await fleet.ready()
                await fleet.stop()
            finally:
                await fleet.end()
    found = audit(replace(subject(), app=app), tmp_path, (f"p{n}" for n in range(PAYMENTS)), {})
    assert dict(found.findings) == {}
    answered = {each["payment_id"]: each["outcome"] for each in upstream.answers}
    assert len(upstream.answers) == len(answered) == PAYMENTS
    assert reported == answered
    assert set(answered.values()) == {"COMPLETED", "REJECTED"}


async def test_without_any_server_the_queues_are_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines that are added to one file are answered in another, with nothing installed."""
    monkeypatch.chdir(tmp_path)
    for name in ("PAYMENTS_UPSTREAM", "PAYMENTS_DOWNSTREAM", "PAYMENTS_PREFIX"):
        monkeypatch.delenv(name, raising=False)
    app = app_between(monkeypatch)
    body = {"debtor": "XX63ANTI0000000001", "creditor": "XX73ANTI9000000000", "amount": "11.77", "reference": "CDs"}
    exchange = tmp_path / "exchange"
    exchange.mkdir()
    async with app.run_in(tmp_path / "data"):
        with (exchange / "payments.ordered.jsonl").open("a") as file:
            file.writelines(json.dumps({"payment_id": f"p{n}", **body}) + "\n" for n in range(3))
        for name in ("payments.answered.jsonl", "payments.reported.jsonl"):
            told = await until(lambda name=name: _lines(exchange / name, 3))
            assert Counter(each["data"]["outcome"] for each in told) == {"COMPLETED": 3}


def _lines(path: Path, count: int) -> list[dict[str, Any]]:
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    return [json.loads(line) for line in lines] if len(lines) >= count else []


async def _reported(url: str, topic: str, count: int) -> dict[str, str]:
    """What lies in the topic: the outcome of each payment, told once by id; nothing while it is not all there."""

    def read() -> dict[str, str]:
        consumer = Consumer({"bootstrap.servers": url.partition("://")[2], "group.id": topic})
        consumer.assign([TopicPartition(topic, number, 0) for number in range(3)])
        records = [each for each in consumer.consume(10 * count, 1.0) if each.error() is None]
        consumer.close()
        ids = {dict(each.headers() or ())["ce_id"]: json.loads(each.value() or b"") for each in records}
        outcomes = {each["payment_id"]: each["outcome"] for each in ids.values()}
        assert len(ids) == len(outcomes)
        return outcomes if len(outcomes) >= count else {}

    return await asyncio.to_thread(read)
