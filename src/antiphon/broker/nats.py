"""NATS JetStream as the bus: one stream, read by position.

An event lies at the subject ``antiphon.<name>.<service>.<Type>`` as a CloudEvent in structured JSON: headers are dear
to read for the client, so there are three. Events of others may have their attributes as headers ``ce-...`` just as
well. A receiver's position is the stream's sequence number, kept in its own store and moved with the events in one
transaction, so there is nothing to acknowledge. The message id is the event's: JetStream drops what a sender repeats
within two minutes, the inbox whatever is repeated later. Events of one key wait for each other's confirmation.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import aclosing, suppress
from datetime import timedelta

import nats
from nats.aio.client import Client
from nats.js import JetStreamContext, api
from nats.js.errors import BadRequestError, KeyNotFoundError, NoKeysError, NotFoundError

from antiphon.broker.feed import AGAIN, PATIENCE_S, Feed, Feeds
from antiphon.broker.jetstream import Confirmations, connected, place_of, pulled
from antiphon.broker.naming import checked, plain, quoted, shown
from antiphon.broker.waves import waves
from antiphon.errors import BusError, InvalidEvent, PayloadTooLarge, PositionUnknown, Undecodable
from antiphon.model.envelope import Envelope
from antiphon.model.retry import milliseconds
from antiphon.ports import Ability, Clock, LoggedEvent, Unreadable
from antiphon.wire import STRUCTURED, from_message, to_structured

_FETCH_S = 30.0
_PURGE_EVERY_MS = 600_000
#: Left of the server's limit for the headers of a message.
_HEADERS = 16 * 1024
#: The stream positions of the pieces of data that is larger than the server takes in one message.
_PIECES = "antiphon-pieces"
_PLACES = re.compile(r"[0-9]{1,19}(,[0-9]{1,19})*")
#: More data is nobody's event, however many pieces it is said to be in.
_LARGEST = 256 * 1024 * 1024
#: The type of an event of ours: who has no use for it need not read it.
_TYPE = "antiphon-type"


class NatsBus(Feeds):
    """A bus on a JetStream stream (``ports.Bus``). *keep*: what was taken stays readable for so long."""

    abilities: frozenset[Ability] = frozenset({"order", "rereads"})

    def __init__(self, url: str, *, name: str, clock: Clock, keep: timedelta) -> None:
        self._url = checked(url)
        super().__init__(shown(url))
        self._stream = f"antiphon_{name}"
        self._prefix = f"antiphon.{name}"
        self._clock = clock
        self._keep_ms = milliseconds(keep)
        self._purged_ms = clock.now_ms()
        self._client: Client | None = None
        self._stream_client: JetStreamContext | None = None
        self._sending: Confirmations | None = None
        self._trouble = ""

    async def open(self) -> None:
        """Connect; the client connects again by itself from then on. Raises BusError."""
        if self._client is not None and not self._client.is_closed:
            return
        # The library tries by itself, and tells what is wrong apart from that it has come to nothing.
        self._trouble = ""
        try:
            async with self._translated("cannot be reached", nats.errors.Error):
                self._client = await connected(
                    self._url,
                    name=self._prefix,
                    allow_reconnect=True,
                    max_reconnect_attempts=-1,
                    reconnect_time_wait=0.5,
                    connect_timeout=PATIENCE_S,
                    error_cb=self._failed,
                    disconnected_cb=self._lost,
                )
        except BusError as error:
            if not self._trouble:
                raise
            raise BusError(f"it cannot be reached: {self._trouble}", where=self._where, mend=AGAIN) from error
        # One for all calls: each listens for the answers to what it has sent.
        self._stream_client = self._client.jetstream(timeout=PATIENCE_S)
        self._sending = Confirmations(self._client, self._where)
        async with self._translated("cannot be listened to", nats.errors.Error):
            await self._sending.open()

    async def close(self) -> None:
        """Disconnect. Idempotent."""
        await self._close_feeds()
        client, self._client, self._stream_client = self._client, None, None
        if client is not None:
            await client.close()

    async def expect(self, receivers: Mapping[str, Sequence[str]]) -> None:
        """Make the stream, and a note for each receiver of how far it is. Raises BusError."""
        js = self._js()
        async with self._translated("cannot make the stream", nats.errors.Error):
            await js.add_stream(name=self._stream, subjects=[f"{self._prefix}.>"])
            notes = await js.create_key_value(bucket=self._stream)
            for receiver in receivers:
                try:
                    await notes.get(receiver)
                except KeyNotFoundError:
                    await notes.create(receiver, b"0")

    async def send(self, sender: str, after_seq: int, upto_seq: int, events: Sequence[Envelope]) -> int:
        """Publish all of *events*; returns when the stream holds each. Raises BusError."""
        self._js()
        assert self._sending is not None
        for wave in waves(events):
            async with self._translated("has not confirmed", nats.errors.Error):
                await self._sending.publish([await self._message(event) for event in wave], PATIENCE_S)
        return upto_seq

    async def _message(self, event: Envelope) -> tuple[str, bytes, dict[str, str]]:
        """Subject, data and headers of an event."""
        headers = {"content-type": STRUCTURED, _TYPE: quoted(event.type), api.Header.MSG_ID.value: plain(event.id)}
        body = to_structured(event)
        if len(body) > self._largest:
            headers[_PIECES], body = await self._in_pieces(body), b""
        return f"{self._prefix}.{quoted(event.service)}.{headers[_TYPE]}", body, headers

    async def position(self, sender: str) -> int | None:
        """Nothing: the sender's note counts."""
        return None

    async def report(self, receiver: str, seq: int) -> None:
        """Note how far *receiver* is; now and then remove what is old and taken by all. Raises BusError."""
        async with self._translated("cannot note a position", nats.errors.Error):
            notes = await self._js().key_value(self._stream)
            known = int((await notes.get(receiver)).value or b"0")
            if seq > known:
                await notes.put(receiver, str(seq).encode())
        if self._clock.now_ms() - self._purged_ms >= _PURGE_EVERY_MS:
            self._purged_ms = self._clock.now_ms()
            await self.purge(self._clock.now_ms() - self._keep_ms)

    async def purge(self, before_ms: int) -> None:
        """Remove what was sent before a time (Unix milliseconds) and has been taken by every receiver."""
        js = self._js()
        async with self._translated("cannot remove what is old", nats.errors.Error):
            notes = await js.key_value(self._stream)
            try:
                positions = [int((await notes.get(key)).value or b"0") for key in await notes.keys()]
            except NoKeysError:
                return
            state = (await js.stream_info(self._stream)).state
            low, high = state.first_seq, min(*positions, state.last_seq) + 1
            while low < high:
                middle = (low + high) // 2
                sent = (await js.get_msg(self._stream, middle)).time
                if sent is not None and sent.timestamp() * 1000 < before_ms:
                    low = middle + 1
                else:
                    high = middle
            # Asked to remove what lies before the first message, the server removes everything.
            if low > state.first_seq:
                await js.purge_stream(self._stream, seq=low)

    async def destroy(self, receivers: Iterable[str]) -> None:
        """Remove the stream, and all that it holds. Raises BusError."""
        js = self._js()
        async with self._translated("cannot be removed", nats.errors.Error):
            for remove in (js.delete_stream, js.delete_key_value):
                with suppress(NotFoundError):
                    await remove(self._stream)

    # ------------------------------------------------------------------ inside

    async def _newest(self) -> int:
        js = self._js()
        async with self._translated("cannot be read", nats.errors.Error):
            return (await js.stream_info(self._stream)).state.last_seq

    def _js(self) -> JetStreamContext:
        if self._stream_client is None or self._client is None or not self._client.is_connected:
            trouble = f": {self._trouble}" if self._trouble else ""
            raise BusError(f"it is not connected{trouble}", where=self._where, mend=AGAIN)
        return self._stream_client

    async def _failed(self, error: Exception) -> None:
        """What breaks is raised where it is waited for; the client connects again by itself."""
        self._trouble = str(error) or type(error).__name__

    async def _lost(self) -> None:
        """What was on its way is lost with the connection: a feed is made anew from its position, what was not
        confirmed is sent again."""
        if self._sending is not None:
            self._sending.lost()
        for feed in self._feeds.values():
            feed.fail(BusError("the connection was lost", where=self._where, mend=AGAIN))

    @property
    def _largest(self) -> int:
        assert self._client is not None
        return self._client.max_payload - _HEADERS

    async def _in_pieces(self, body: bytes) -> str:
        """Publish data that is too large for one message before its event; where it lies."""
        pieces = [body[at : at + self._largest] for at in range(0, len(body), self._largest)]
        subject = f"{self._prefix}.pieces"
        return ",".join([str((await self._js().publish(subject, piece)).seq) for piece in pieces])

    async def _fill(self, feed: Feed) -> None:
        js, client = self._js(), self._client
        assert client is not None
        config = api.ConsumerConfig(
            deliver_policy=api.DeliverPolicy.BY_START_SEQUENCE,
            opt_start_seq=feed.position + 1,
            ack_policy=api.AckPolicy.NONE,
            inactive_threshold=2 * _FETCH_S,
        )
        async with self._translated("cannot be consumed", nats.errors.Error):
            last = (await js.stream_info(self._stream)).state.last_seq
            if feed.highest > last:
                # It was made anew, or has lost its end, or the numbers are another broker's.
                await (await js.key_value(self._stream)).put(feed.receiver, b"0")
                raise PositionUnknown(
                    f"{feed.receiver} has read it up to {feed.highest}, and it ends at {last}", where=self._where
                )
            consumer = (await js.add_consumer(self._stream, config)).name
        types = frozenset(map(quoted, feed.types))
        delivered = 0
        async with aclosing(pulled(client, self._stream, consumer, _FETCH_S)) as messages:
            async for message in messages:
                place = place_of(message)
                delivered += 1
                if place.consumer != delivered:
                    raise BusError(
                        f"deliveries {delivered} to {place.consumer - 1} of the stream were lost on their way",
                        where=self._where,
                        mend="It is read again from there",
                    )
                headers = message.headers or {}
                skipped = headers.get(_TYPE, "") not in ("", *types) or message.subject == f"{self._prefix}.pieces"
                event = None if skipped else await self._event(place.stream, headers, message.data, feed.types)
                await feed.put(place.stream, event)

    async def _event(
        self, seq: int, headers: dict[str, str], body: bytes, types: frozenset[str]
    ) -> LoggedEvent | Unreadable | None:
        """What a message is to a receiver of *types*."""
        try:
            if places := headers.pop(_PIECES, ""):
                body = await self._joined(places)
            event = from_message(headers, body, received_ms=self._clock.now_ms())
        except InvalidEvent as error:
            return Unreadable(seq, body, error)
        return LoggedEvent(seq, event) if event.type in types else None

    async def _joined(self, places: str) -> bytes:
        """The data at *places*. Raises Undecodable for what is no place, or has nothing: anybody may write that."""
        if not _PLACES.fullmatch(places):
            raise Undecodable("CloudEvent", f"header {_PIECES}", f"expected positions, got {places!r:.100}")
        body = bytearray()
        for place in places.split(","):
            try:
                body += (await self._js().get_msg(self._stream, int(place))).data or b""
            except (NotFoundError, BadRequestError) as error:
                raise Undecodable("CloudEvent", f"header {_PIECES}", f"there is nothing at {place}") from error
            if len(body) > _LARGEST:
                raise PayloadTooLarge("CloudEvent", f"header {_PIECES}", f"more than {_LARGEST:,} bytes")
        return bytes(body)
