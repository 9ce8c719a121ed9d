"""Redis Streams as the bus: one stream, read by position.

An entry has two fields, ``type`` and ``event``, a CloudEvent as structured JSON; whoever speaks Redis can read them,
and add entries. A receiver's position is the entry's id, kept in its own store and moved with the events in one
transaction, so there are no consumer groups and nothing to acknowledge or claim.

Redis confirms what it has in memory. What was sent survives its crash only with ``appendonly yes`` and
``appendfsync always``; anything else is said in the log when the bus is opened.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError

from antiphon.broker.feed import PATIENCE_S, Feed, Feeds
from antiphon.broker.naming import checked, shown
from antiphon.errors import BusError, DeclarationError, InvalidEvent
from antiphon.model.envelope import Envelope
from antiphon.model.retry import milliseconds
from antiphon.ports import Ability, Clock, LoggedEvent, Unreadable
from antiphon.wire import from_structured, to_structured

log = logging.getLogger("antiphon.broker")

_CHUNK = 256
#: Well below what the client waits for an answer: that nothing comes is no error.
_BLOCK_MS = 2_000
_PURGE_EVERY_MS = 600_000
#: An id is ``<ms>-<n>``: as one number, with room for so many bits of n.
_SHIFT = 20
# KEYS: stream, positions. ARGV: sender, its position before and after, up to where it was confirmed to it, and a type
# and an event each. Who knows less than it has confirmed has lost its end, as a replica that is promoted may: that has
# to be sent again, and comes first.
_SEND = """
local known = tonumber(redis.call('HGET', KEYS[2], ARGV[1]) or '0')
if known > tonumber(ARGV[2]) or known < tonumber(ARGV[4]) then
  return known
end
for at = 5, #ARGV, 2 do
  redis.call('XADD', KEYS[1], '*', 'type', ARGV[at], 'event', ARGV[at + 1])
end
redis.call('HSET', KEYS[2], ARGV[1], ARGV[3])
return tonumber(ARGV[3])
"""


def client_at(url: str, patience_s: float) -> Redis:
    """A client that is not connected yet. Raises DeclarationError for what the library does not understand."""
    login, at, place = url.rpartition("@")
    checked(f"{login}{at}{place.partition('?')[0]}")
    try:
        client = Redis.from_url(url, socket_connect_timeout=patience_s, socket_timeout=patience_s)
        # It would find out about its options when it connects, each time anew.
        client.connection_pool.connection_class(**client.connection_pool.connection_kwargs)
    except (TypeError, ValueError) as error:
        what = str(error).partition("() got an ")[2] or str(error)
        mend = "There are name=, and those of redis-py, such as db= and ssl_ca_certs="
        raise DeclarationError(what, where=shown(url), mend=mend) from error
    return client


class RedisBus(Feeds):
    """A bus on a Redis stream (``ports.Bus``). *keep*: what was taken stays readable for so long."""

    abilities: frozenset[Ability] = frozenset({"order", "positions", "rereads"})

    def __init__(self, url: str, *, name: str, clock: Clock, keep: timedelta) -> None:
        super().__init__(shown(url))
        # The braces keep the keys together in a cluster.
        self._stream, self._sent, self._taken = (f"antiphon:{{{name}}}:{each}" for each in ("events", "sent", "taken"))
        self._clock = clock
        self._keep_ms = milliseconds(keep)
        self._purged_ms = clock.now_ms()
        # What its commands return is typed as everything that it could be in any version of the protocol.
        self._client: Any = client_at(url, PATIENCE_S)
        self._script = self._client.register_script(_SEND)
        # Up to where each sender's log was confirmed here.
        self._confirmed: dict[str, int] = {}

    async def open(self) -> None:
        """See that the server is there, and how durable it is. Raises BusError."""
        async with self._translated("cannot be reached", RedisError):
            await self._client.ping()
        try:
            kept = {name: (await self._client.config_get(name)).get(name) for name in ("appendonly", "appendfsync")}
        except RedisError:
            return  # a hosted Redis does not say
        if kept != {"appendonly": "yes", "appendfsync": "always"}:
            self.doubt = f"it may forget what it has confirmed: {kept}"
            log.warning("%s: %s", self._where, self.doubt)

    async def close(self) -> None:
        """Disconnect. Idempotent."""
        await self._close_feeds()
        await self._client.aclose()

    async def expect(self, receivers: Mapping[str, Sequence[str]]) -> None:
        """Note each receiver, so that what it has not taken is kept. Raises BusError."""
        async with self._translated("cannot note the receivers", RedisError):
            for receiver in receivers:
                await self._client.hsetnx(self._taken, receiver, "0")

    async def send(self, sender: str, after_seq: int, upto_seq: int, events: Sequence[Envelope]) -> int:
        """Add *events* if the sender's position is not beyond *after_seq*; the position afterwards. Raises BusError."""
        fields = [field for event in events for field in (event.type, to_structured(event))]
        async with self._translated("has not confirmed", RedisError):
            keys = [self._stream, self._sent]
            confirmed = self._confirmed.get(sender, 0)
            known = int(await self._script(keys=keys, args=[sender, after_seq, upto_seq, confirmed, *fields]))
        if known < confirmed:
            log.warning("%s has forgotten what %s sent after %d: it is sent again", self._where, sender, known)
        self._confirmed[sender] = known
        return known

    async def position(self, sender: str) -> int | None:
        """How far the sender's log has been taken. Raises BusError."""
        async with self._translated("does not tell a position", RedisError):
            return int(await self._client.hget(self._sent, sender) or 0)

    async def report(self, receiver: str, seq: int) -> None:
        """Note how far *receiver* is; now and then remove what is old and taken by all. Raises BusError."""
        async with self._translated("cannot note a position", RedisError):
            if seq > int(await self._client.hget(self._taken, receiver) or 0):
                await self._client.hset(self._taken, receiver, str(seq))
        if self._clock.now_ms() - self._purged_ms >= _PURGE_EVERY_MS:
            self._purged_ms = self._clock.now_ms()
            await self.purge(self._clock.now_ms() - self._keep_ms)

    async def purge(self, before_ms: int) -> None:
        """Remove what was sent before a time (Unix milliseconds) and has been taken by every receiver."""
        async with self._translated("cannot remove what is old", RedisError):
            taken = [int(each) for each in await self._client.hvals(self._taken)]
            if taken:
                await self._client.xtrim(self._stream, minid=_id(min(*taken, before_ms << _SHIFT) + 1))

    async def destroy(self, receivers: Iterable[str]) -> None:
        """Remove the stream, and all that it holds. Raises BusError."""
        async with self._translated("cannot be removed", RedisError):
            await self._client.delete(self._stream, self._sent, self._taken)

    # ------------------------------------------------------------------ inside

    async def _newest(self) -> int:
        async with self._translated("cannot be read", RedisError):
            newest = await self._client.xrevrange(self._stream, count=1)
        return _seq(newest[0][0]) if newest else 0

    async def _fill(self, feed: Feed) -> None:
        while True:
            after = _id(feed.position)
            try:
                answer = await self._client.xread({self._stream: after}, count=_CHUNK, block=_BLOCK_MS)
            except RedisError as error:
                raise BusError(f"the connection was lost: {error}", where=self._where) from error
            for _, entries in answer or ():
                for entry_id, fields in entries:
                    await feed.put(_seq(entry_id), self._event(_seq(entry_id), fields, feed.types))

    def _event(self, seq: int, fields: Mapping[bytes, bytes], types: frozenset[str]) -> LoggedEvent | Unreadable | None:
        """What an entry is to a receiver of *types*."""
        if fields.get(b"type", b"").decode(errors="replace") not in ("", *types):
            return None
        raw = fields.get(b"event", b"")
        try:
            event = from_structured(raw, received_ms=seq >> _SHIFT)
        except InvalidEvent as error:
            return Unreadable(seq, raw, error)
        return LoggedEvent(seq, event) if event.type in types else None


def _seq(entry_id: bytes) -> int:
    """The id of an entry as one number, of the same order."""
    milliseconds, _, number = entry_id.partition(b"-")
    return int(milliseconds) << _SHIFT | int(number)


def _id(seq: int) -> str:
    return f"{seq >> _SHIFT}-{seq & ((1 << _SHIFT) - 1)}"
