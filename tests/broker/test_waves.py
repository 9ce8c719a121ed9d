"""What is sent at once, and that a refusal in its midst leaves the order of each key."""

from __future__ import annotations

from collections import Counter
from itertools import chain, pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from antiphon.broker.nats import NatsBus
from antiphon.broker.waves import waves
from antiphon.errors import BusError
from antiphon.testing.conformance.bus import Reader, opened
from antiphon.testing.conformance.engines import buses_of
from antiphon.testing.conformance.kit import envelope
from tests.broker.engines import BROKERS, required

NATS = next(engine for engine in BROKERS if engine.name == "nats")


@given(st.lists(st.none() | st.sampled_from("abc"), max_size=40))
def test_a_wave_has_a_key_once_and_waves_keep_the_order(keys: list[str | None]) -> None:
    """All events are sent, in their order; a wave ends where a key would come again, and nowhere else."""
    events = [envelope(number, key=key) for number, key in enumerate(keys)]
    found = waves(events)
    assert list(chain(*found)) == events
    for wave in found:
        assert max(Counter(each.key for each in wave if each.key is not None).values(), default=1) == 1
    for wave, following in pairwise(found):
        assert following[0].key in {each.key for each in wave}


@pytest.mark.anyio
async def test_what_comes_after_a_refused_event_of_its_key_is_not_taken(tmp_path: Path) -> None:
    """A server that refuses one in the middle of a batch, and takes it later: each key's events come in order."""
    large = b'{"text":"%s"}' % (b"x" * 20_000)
    batch = [envelope(n, key="ab"[n % 2], data=large if n == 3 else None) for n in range(1, 9)]
    async with buses_of(NATS, await required(NATS)) as make, opened(make, tmp_path) as (bus,):
        assert isinstance(bus, NatsBus)
        stream = bus._js()
        config = (await stream.stream_info(bus._stream)).config
        await stream.update_stream(config.evolve(max_msg_size=10_000))
        with pytest.raises(BusError, match="exceeds"):
            await bus.send("s", 0, 8, batch)
        await stream.update_stream(config.evolve(max_msg_size=-1))
        assert await bus.send("s", 0, 8, batch) == 8
        came = await Reader(bus).until(8)
        assert [n for n in came if n % 2] == [1, 3, 5, 7]
        assert [n for n in came if not n % 2] == [2, 4, 6, 8]


@pytest.mark.anyio
async def test_sending_listens_once(tmp_path: Path) -> None:
    """Batch after batch, the connection has no more subscriptions than before."""
    async with buses_of(NATS, await required(NATS)) as make, opened(make, tmp_path) as (bus,):
        assert isinstance(bus, NatsBus)
        assert bus._client is not None
        await bus.send("s", 0, 1, [envelope(1)])
        before = len(bus._client._subs)
        for number in range(2, 12):
            await bus.send("s", number - 1, number, [envelope(number)])
        assert len(bus._client._subs) == before
