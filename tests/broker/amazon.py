"""What the tests of the buses on AWS share: stand-ins for it that are started once, and plain clients of theirs."""

from __future__ import annotations

import atexit
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiobotocore.session import get_session

from antiphon.testing.conformance.bus import opened
from antiphon.testing.conformance.engines import Engine, buses_of
from antiphon.testing.emulators import MiniStack, Moto
from tests.conftest import require
from tests.servers import engine_called

EMULATORS: list[type[MiniStack]] = [MiniStack, Moto]
SQS, STANDARD, EVENTBRIDGE, KINESIS = map(engine_called, ("sqs", "sqs-standard", "eventbridge", "kinesis"))
_started: dict[type[MiniStack], MiniStack] = {}

on_each_emulator = pytest.mark.parametrize("emulator", EMULATORS, ids=lambda kind: kind.__name__)


async def started(emulator: type[MiniStack]) -> MiniStack:
    """The one server of a kind that all tests of this run use."""
    if emulator not in _started:
        require(emulator.__name__, emulator.is_there())
        server = emulator()
        atexit.register(server.close)
        await server.start()
        _started[emulator] = server
    return _started[emulator]


async def url_on(emulator: type[MiniStack], engine: Engine) -> str:
    """Where *engine* is on such a server."""
    assert engine.url is not None
    return engine.url.replace(":4566", f":{(await started(emulator)).port}")


@asynccontextmanager
async def buses_on_aws(engine: Engine, path: Path, *owners: str) -> AsyncIterator[list[Any]]:
    """A bus for each of *owners*, open, with all that is inside it."""
    async with buses_of(engine, await url_on(MiniStack, engine)) as make, opened(make, path, *owners) as buses:
        yield [*buses]


@asynccontextmanager
async def clients(emulator: type[MiniStack], *services: str) -> AsyncIterator[list[Any]]:
    """Clients that know nothing of Antiphon."""
    endpoint = f"http://127.0.0.1:{(await started(emulator)).port}"
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(
                get_session().create_client(
                    service,
                    region_name="us-east-1",
                    endpoint_url=endpoint,
                    aws_access_key_id="plain",
                    aws_secret_access_key="plain",
                )
            )
            for service in services
        ]


class Refusing:
    """A client that has some of a batch refused: the entries whose number, in the order of asking, is in *refused*."""

    def __init__(self, client: Any, operation: str, refused: Collection[int], parameter: str) -> None:
        self._client = client
        self._operation = operation
        self._refused = refused
        self._parameter = parameter
        #: How many entries have been asked for.
        self.asked = 0

    def __getattr__(self, name: str) -> Any:
        return self._batch if name == self._operation else getattr(self._client, name)

    async def _batch(self, **asked: Any) -> dict[str, Any]:
        entries = asked.pop(self._parameter)
        numbered = list(enumerate(entries, self.asked))
        self.asked += len(entries)
        kept = [entry for number, entry in numbered if number not in self._refused]
        failed = [
            {"Id": entry["Id"], "Code": "InternalError", "Message": "not now", "SenderFault": False}
            for number, entry in numbered
            if number in self._refused
        ]
        answer = await getattr(self._client, self._operation)(**asked, **{self._parameter: kept}) if kept else {}
        return {**answer, "Failed": [*answer.get("Failed", ()), *failed]}


def with_client(bus: Any, service: str, wrap: Callable[[Any], Any]) -> Callable[[], Awaitable[Any]]:
    """Have *bus* use what *wrap* makes of its client of *service*; gives that."""
    made: list[Any] = []
    real = bus._clients.of

    async def of(asked: str) -> Any:
        client = await real(asked)
        if asked != service:
            return client
        if not made:
            made.append(wrap(client))
        return made[0]

    bus._clients.of = of
    return lambda: of(service)


def cloud_event(event_id: str, type_: str, data: object, subject: str | None = None) -> str:
    """A CloudEvent as somebody writes it who knows the standard and nothing else."""
    event = {"specversion": "1.0", "id": event_id, "source": "/warehouse", "type": type_, "data": data}
    return json.dumps(event | ({"subject": subject} if subject is not None else {}))
