"""What is NATS's own: headers, and what the server takes for the same message."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from antiphon.ports import LoggedEvent, Unreadable
from antiphon.testing.conformance.bus import A, B, events_of, opened
from antiphon.testing.conformance.engines import buses_of
from antiphon.testing.conformance.kit import envelope
from antiphon.wire import STRUCTURED
from tests.broker.engines import required
from tests.servers import engine_called

pytestmark = pytest.mark.anyio
NATS = engine_called("nats")


async def test_ids_that_differ_in_spaces_are_two_events(tmp_path: Path) -> None:
    """A header has none at its ends, and no ends of lines: taken as message ids, they were the same one."""
    sent = [
        msgspec.structs.replace(envelope(1), id=each) for each in ("a b", "a b ", "a\nb", "a\r\nb", "a  b", "\u00e9")
    ]
    async with buses_of(NATS, await required(NATS)) as make, opened(make, tmp_path) as (bus,):
        await bus.send("s", 0, len(sent), sent)
        found = events_of(await bus.receive("receiver", {A: 0, B: 0}, 100))
        assert [each.envelope for each in found] == sent


@pytest.mark.parametrize("places", ["999999", "1,999999", "9" * 30, "9" * 5_000, "-1", "x"])
async def test_pieces_that_are_not_there_block_nobody(places: str, tmp_path: Path) -> None:
    """Whoever may publish may write anything into a header."""
    async with buses_of(NATS, await required(NATS)) as make, opened(make, tmp_path) as (bus,):
        mine: Any = bus
        headers = {"antiphon-pieces": places, "content-type": STRUCTURED}
        await mine._js().publish(f"{mine._prefix}.somebody.anything", b"", headers=headers)
        await bus.send("s", 0, 1, [envelope(1)])
        while len(found := await bus.receive("receiver", {A: 0, B: 0}, 10)) < 2:
            pass
        hostile, good = found
        assert isinstance(hostile, Unreadable)
        assert isinstance(good, LoggedEvent)
