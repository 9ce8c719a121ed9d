"""What is NATS's own: headers, and what the server takes for the same message."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from antiphon.testing.conformance.bus import A, B, events_of, opened
from antiphon.testing.conformance.engines import buses_of
from antiphon.testing.conformance.kit import envelope
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
