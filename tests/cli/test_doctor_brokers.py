"""``antiphon doctor --bus``: whether the broker can be reached, and keeps what it confirms."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from antiphon.cli.exits import Exit
from antiphon.testing.conformance.engines import Engine
from antiphon.testing.line import line_to
from tests.broker.engines import on_each, required

pytestmark = pytest.mark.anyio

Answer = Callable[..., tuple[int, Any, str]]


async def look(answer: Answer, url: str) -> tuple[int, dict[str, str], str]:
    """The exit code, what was found of the bus, and what was said beside."""
    code, found, said = await asyncio.to_thread(answer, "doctor", "--bus", url)
    (check,) = (check for check in found["checks"] if check["name"] == "bus")
    return code, check, said


@on_each
async def test_a_broker_that_is_there_is_found(engine: Engine, here: Path, answer: Answer) -> None:
    """It can be reached; one that may forget what it has confirmed is warned of."""
    code, check, said = await look(answer, await required(engine))
    assert (code, said) == (Exit.OK, "")
    if check["state"] == "warning":
        assert (engine.name, "may forget" in check["value"]) == ("redis", True)
    else:
        assert (check["state"], check["value"].partition(": ")[2]) == ("ok", "it can be reached")


@pytest.mark.parametrize("scheme", ["nats", "redis", "amqp", "kafka"])
async def test_a_broker_that_is_not_there_is_an_error(scheme: str, here: Path, answer: Answer) -> None:
    """With what was tried and how to mend it, and without the password."""
    async with line_to(f"{scheme}://ann:hidden@127.0.0.1:1") as line:
        await line.cut()
        code, check, _ = await look(answer, line.url)
    assert (code, check["state"]) == (Exit.FINDINGS, "error")
    assert "cannot be reached" in check["value"]
    assert "see that it runs" in check["mend"]
    assert "hidden" not in str(check)


async def test_what_is_no_broker_is_an_error(here: Path, answer: Answer) -> None:
    """The addresses that there are are named."""
    code, check, _ = await look(answer, "mqtt://127.0.0.1")
    assert (code, check["state"]) == (Exit.FINDINGS, "error")
    assert "nats://" in check["mend"]
