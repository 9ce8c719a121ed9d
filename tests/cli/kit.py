"""A small application in files, and the ``antiphon`` command on it, in this process or in others."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

APP = """
import asyncio
from antiphon import App, Event, Reject, Retry, Service, Transaction, seconds

class Ordered(Event, key="customer"):
    order_id: str
    customer: str
    cents: int

class Billed(Event, key="customer"):
    order_id: str
    customer: str

shop = Service("shop")
billing = Service("billing", tables="CREATE TABLE IF NOT EXISTS bills (order_id VARCHAR(64) PRIMARY KEY, cents INT);")
counter = Service("counter")

@billing.on(Ordered, retry=Retry(attempts=2, first=seconds(0.01)))
async def bill(order: Ordered, tx: Transaction) -> Billed:
    print("bill", order.order_id, flush=True)
    if order.cents < 0:
        raise Reject("the amount is negative")
    if order.cents == 13:
        raise ValueError("unlucky amount")
    if order.cents == 404:
        await asyncio.Event().wait()
    await tx.execute("INSERT INTO bills VALUES (?, ?)", order.order_id, order.cents)
    return Billed(order.order_id, order.customer)

@shop.get("/ping")
async def ping() -> dict[str, str]:
    return {"answer": "pong"}

@counter.on(Billed)
async def count(billed: Billed) -> None:
    print("count", billed.order_id, flush=True)

app = App(shop, billing, counter, name="store_app")
apart = App(shop, billing, counter, name="apart_app", own_stores=True)
"""

ENVIRONMENT = {**os.environ, "PYTHONUNBUFFERED": "1", "NO_COLOR": "1"}


def order(number: str, cents: int = 100, customer: str = "ann") -> str:
    """The JSON of an Ordered."""
    return json.dumps({"order_id": number, "customer": customer, "cents": cents})


def antiphon(*arguments: str, cwd: Path, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """The command, run to its end in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "antiphon", *arguments],
        cwd=cwd,
        env=ENVIRONMENT,
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


class Running:
    """``antiphon run --json`` in a process of its own."""

    def __init__(self, process: subprocess.Popen[str], ready: dict[str, Any]) -> None:
        self.process = process
        self.ready = ready

    def line(self) -> str:
        """The next line that the application prints."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def said(self, text: str) -> None:
        """Return when a line on stderr begins with *text*."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if line.startswith(text):
                return
        raise AssertionError(f"it ended without saying {text!r}")

    def signal(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Send a signal."""
        self.process.send_signal(number)

    def stop(self) -> int:
        """Let it drain; returns its exit code."""
        self.process.terminate()
        self.process.communicate(timeout=60)
        return self.process.returncode


@contextmanager
def running(*arguments: str, cwd: Path) -> Iterator[Running]:
    """``antiphon run`` with *arguments*, ready; killed at the end if it still runs."""
    command = [sys.executable, "-m", "antiphon", "run", *arguments, "--json"]
    with subprocess.Popen(
        command, cwd=cwd, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stderr is not None
            first = process.stdout.readline()
            assert first, process.stderr.read()
            yield Running(process, json.loads(first))
        finally:
            if process.poll() is None:
                process.kill()
