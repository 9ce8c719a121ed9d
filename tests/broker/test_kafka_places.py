"""Where Kafka is, and who may go there: URLs, options, users, certificates, passwords."""

from __future__ import annotations

import asyncio
import shutil
import ssl
from pathlib import Path

import pytest

from antiphon.broker.connecting import bus_at
from antiphon.broker.librdkafka import counts_in, settings_of
from antiphon.errors import BusError, DeclarationError
from antiphon.model.retry import days
from antiphon.runtime.clock import SystemClock
from antiphon.testing.conformance.bus import Reader
from antiphon.testing.conformance.kit import envelope
from antiphon.testing.kafka import KafkaServer
from antiphon.testing.line import line_to
from antiphon.testing.servers import free_port, running
from tests.broker.kafka import PARTITIONS, TOPIC, bus_of
from tests.broker.tansu import Tansu
from tests.conftest import require

pytestmark = pytest.mark.anyio


def test_what_a_url_says() -> None:
    """Servers, encryption, user and password, files, and what a topic is made with."""
    url = "kafka+ssl://me:p%40ss@one:9093,two:9094?sasl=SCRAM-SHA-512&ca=/ca.pem&partitions=24&replication=3"
    settings = settings_of(url)
    assert {name: settings.get(name) for name in ("bootstrap.servers", "security.protocol", "ssl.ca.location")} == {
        "bootstrap.servers": "one:9093,two:9094",
        "security.protocol": "sasl_ssl",
        "ssl.ca.location": "/ca.pem",
    }
    assert {name: value for name, value in settings.items() if name.startswith("sasl.")} == {
        "sasl.mechanism": "SCRAM-SHA-512",
        "sasl.username": "me",
        "sasl.password": "p@ss",
    }
    assert counts_in(url) == {"partitions": 24, "replication": 3}
    assert settings_of("kafka://one:9092")["security.protocol"] == "plaintext"


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("partition=3", "There are: partitions, replication, sasl, ca, cert, key"),
        ("partitions=0", "1 to"),
        ("partitions=many", "1 to"),
        ("sasl=NTLM", "PLAIN"),
    ],
)
def test_an_option_that_is_none(query: str, says: str) -> None:
    """The error names those that there are, and no password."""
    make = bus_at(f"kafka://me:secret@one:9092?{query}", "shop", keep=days(7))
    with pytest.raises(DeclarationError, match=says) as raised:
        make(Path(), clock=SystemClock(), owner="one")
    assert "secret" not in str(raised.value)


async def test_a_user_whom_the_cluster_refuses() -> None:
    """The error says why it cannot be used, and not the password."""
    require("Tansu", Tansu.is_there())
    server = Tansu()
    server.asks_who = True
    try:
        await server.start()
        with pytest.raises(BusError, match=r"it cannot be reached: .*SASL.* authentication failed") as raised:
            async with bus_of(server.url.replace("://", "://me:secret@") + "?sasl=SCRAM-SHA-512"):
                pass
    finally:
        server.close()
    assert "secret" not in str(raised.value)


async def test_an_encrypted_connection(tmp_path: Path) -> None:
    """``kafka+ssl://`` with the certificate of who signed the cluster's; without it, the cluster is not trusted."""
    require("openssl", shutil.which("openssl") is not None)
    require("Kafka's mock cluster", KafkaServer.is_there())
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    made = await asyncio.create_subprocess_exec(
        *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"),
        *("-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)),
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert await made.wait() == 0
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    async with running(KafkaServer) as server, line_to(server.url, context) as line:
        assert isinstance(server, KafkaServer)
        await server.make_topic(TOPIC, PARTITIONS)
        await server.advertise(line.port)
        url = line.url.replace("kafka://", "kafka+ssl://")
        async with bus_of(f"{url}?ca={certificate}") as bus:
            await bus.send("s", 0, 1, [envelope(1)])
            assert await Reader(bus).until(1) == [1]
        with pytest.raises(BusError, match="it cannot be reached"):
            async with bus_of(url):
                pass


async def test_a_password_is_told_to_nobody(caplog: pytest.LogCaptureFixture) -> None:
    """Neither by the error when no broker is there, nor in the log."""
    with pytest.raises(BusError, match="it cannot be reached") as raised:
        async with bus_of(f"kafka://me:secret@127.0.0.1:{free_port()}"):
            pass
    assert "secret" not in f"{raised.value}{raised.value.__cause__}{caplog.text}"
    assert "kafka://127.0.0.1:" in str(raised.value)
