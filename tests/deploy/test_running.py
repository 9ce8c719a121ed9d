"""The commands of a generated compose file run: as processes of this machine, with the environment that it gives."""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from antiphon.runtime.clock import SystemClock
from tests.channel.kit import signed, until
from tests.deploy.kit import compose_of, queues, written
from tests.examples.kit import CHECKOUT, ENDS_OF_ENROLLMENTS, client_of, ends_of_enrollments
from tests.store.postgres import database

pytestmark = pytest.mark.anyio

APP = "examples.enrollment:app"
_VARIABLE = re.compile(r"\$\{(\w+)[^}]*\}")


class Stack:
    """The containers of the app, each a process: ports, names of hosts and paths are this machine's instead."""

    def __init__(
        self,
        services: Mapping[str, Any],
        folder: Path,
        store: str | None,
        told: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self._services = {name: each for name, each in services.items() if "antiphon" in each.get("command", ())}
        self._ports = {name: _free_port() for name in self._services}
        self._folder = folder
        self._store = store
        #: What .env sets.
        self._told = told

    def start(self, name: str) -> subprocess.Popen[bytes]:
        """The command of a container, with its environment."""
        service = self._services[name]
        environment = {key: self._here(name, value) for key, value in service.get("environment", {}).items()}
        program, *arguments = [self._here(name, word) for word in service["command"]]
        assert program == "antiphon"
        return subprocess.Popen(
            [sys.executable, "-m", "antiphon", *arguments], cwd=CHECKOUT, env={**os.environ, **environment}
        )

    def is_well(self, name: str) -> bool:
        """What the health check of a container says."""
        kind, program, *arguments = [self._here(name, word) for word in self._services[name]["healthcheck"]["test"]]
        assert (kind, program) == ("CMD", "python")
        return subprocess.run([sys.executable, *arguments], capture_output=True, check=False).returncode == 0

    def url(self, name: str) -> str:
        """Where a container is asked."""
        return f"http://127.0.0.1:{self._ports[name]}"

    @property
    def patience_s(self) -> dict[str, int]:
        """How long a container is waited for when it is stopped."""
        return {name: int(each["stop_grace_period"].removesuffix("s")) for name, each in self._services.items()}

    def _here(self, name: str, text: str) -> str:
        if self._store is not None and text.startswith("postgresql://"):
            return self._store
        for other in self._services:
            text = text.replace(f"http://{other}:8000", self.url(other))
        text = text.replace("http://127.0.0.1:8000", self.url(name)).replace("0.0.0.0", "127.0.0.1")
        if text == "8000":
            return str(self._ports[name])
        if text == "/data":
            # One volume for all, or memory of each one's own.
            return str(self._folder / ("data" if "volumes" in self._services[name] else name))
        if (variable := _VARIABLE.fullmatch(text)) is not None:
            return self._told[variable[1]]
        assert not _VARIABLE.search(text), text
        return text


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port: int = listening.getsockname()[1]
        return port


@contextmanager
def stack_of(
    folder: Path, store: str | None, app: str = APP, told: Mapping[str, str] = MappingProxyType({})
) -> Iterator[tuple[Stack, dict[str, subprocess.Popen[bytes]]]]:
    """The app's containers, running and well; killed at the end if they still run."""
    options = [] if store is None else ["--store", store]
    services = compose_of(written("compose", app, folder / "deploy", *options, "--grace", "5s"))["services"]
    stack = Stack(services, folder, store, told)
    processes = {name: stack.start(name) for name in stack.patience_s}
    try:
        for name, process in processes.items():
            while not stack.is_well(name):
                assert process.poll() is None, f"{name} ended with {process.returncode}"
        yield stack, processes
    finally:
        for process in processes.values():
            if process.poll() is None:
                process.kill()
                process.wait()


@pytest.fixture(params=["files", "postgres"])
def store(request: pytest.FixtureRequest) -> Iterator[str | None]:
    """Where the stores are: in files (None), or in a database of the test's own."""
    with database() if request.param == "postgres" else nullcontext() as url:
        yield url


@pytest.fixture
def base() -> Iterator[str]:
    """A database of the test's own."""
    with database() as url:
        yield url


async def test_what_compose_starts_works_and_drains(store: str | None, tmp_path: Path) -> None:
    """Each process passes its health check, the gateway leads to the services wherever they are, and SIGTERM ends each
    within its grace, with 0."""
    with stack_of(tmp_path, store) as (stack, processes):
        assert sorted(processes) == ["enrollment-customer", "enrollment-gateway", "enrollment-transaction"]
        async with client_of(stack.url("enrollment-gateway")) as client:
            assert await ends_of_enrollments(client) == ENDS_OF_ENROLLMENTS
        for process in processes.values():
            process.send_signal(signal.SIGTERM)
        ended = {name: process.wait(stack.patience_s[name]) for name, process in processes.items()}
        assert ended == dict.fromkeys(processes, 0)


async def test_the_channels_of_what_compose_starts_move_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each channel is a container of its own, which gets its URL from .env: what is ordered in one file is answered in
    another, and reported by the other channel."""
    (tmp_path / "exchange").mkdir()
    url = f"folder://{tmp_path / 'exchange'}"
    told = {"PAYMENTS_UPSTREAM": url, "PAYMENTS_DOWNSTREAM": url}
    with queues(monkeypatch, told) as app, stack_of(tmp_path, None, app, told) as (_, processes):
        assert {"payments-stp-orders", "payments-stp-reports"} <= set(processes)
        body = {"debtor": "XX63ANTI0000000001", "creditor": "XX73ANTI9000000000", "amount": "11.77", "reference": "CDs"}
        with (tmp_path / "exchange" / "payments.ordered.jsonl").open("a") as file:
            file.writelines(json.dumps({"payment_id": f"p{n}", **body}) + "\n" for n in range(3))
        for name in ("payments.answered.jsonl", "payments.reported.jsonl"):
            path = tmp_path / "exchange" / name
            await until(lambda path=path: path.exists() and path.read_bytes().count(b"\n") == 3)


async def test_webhooks_come_by_the_gateway_of_what_compose_starts(
    base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is shared but the database: the gateway passes a webhook on to its channel's container, which has the
    secret from .env, and what follows from it goes out by another channel; what is not signed is refused."""
    key = b"0123456789abcdef01234567"
    told = {"HOOKS_SECRET": f"whsec_{base64.b64encode(key).decode()}", "HOOKS_FOLDER": f"folder://{tmp_path}"}
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    with stack_of(tmp_path, base, "tests.deploy.hooked:app", told) as (stack, processes):
        assert sorted(processes) == ["hooked-gateway", "hooked-hooks", "hooked-passed", "hooked-relay"]
        body = json.dumps({"type": "got", "data": {"n": 7, "about": "k"}}).encode()
        headers = signed(body, "msg_1", key, SystemClock().now_ms() // 1000)
        async with client_of(stack.url("hooked-gateway")) as client:
            forged = await client.post("/channels/hooks", content=body.replace(b"7", b"8"), headers=headers)
            taken = await client.post("/channels/hooks", content=body, headers=headers)
        assert (forged.status_code, taken.status_code) == (401, 202)
        path = tmp_path / "passed.jsonl"
        await until(lambda: path.exists() and path.read_bytes().endswith(b"\n"))
        assert [json.loads(line)["data"]["n"] for line in path.read_bytes().splitlines()] == [7]
