"""MQTT in: what devices publish, under topic filters, in a session that the broker keeps.

A place is a topic filter (``sensors/+/temperature``). A message is acknowledged when it is in the store: the broker
keeps what was not, and sends it again, so a message of quality of service 1 or 2 is not lost. One of quality 0 is, if
nobody is connected. MQTT has no name for a message that is sent again; it is known by the broker's number for it and
its body, which is enough for what was under way when a process died. ``identify=`` is better where the body says more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any
from urllib.parse import unquote, urlsplit

import msgspec
from paho.mqtt import client as paho
from paho.mqtt.enums import CallbackAPIVersion

from antiphon.broker.naming import checked, shown
from antiphon.channel.helping import PATIENCE_S, translated
from antiphon.errors import BusError
from antiphon.model.channels import ChannelSpec, Message
from antiphon.ports import Clock

_QUALITY = 1
_ALIVE_S = 30
#: More messages than this are never under way.
_UNDER_WAY = 256
_NOTE = "under way"


class ChannelSource:
    """Takes what is published under topic filters (``ports.Source``)."""

    def __init__(self, channel: ChannelSpec, clock: Clock) -> None:
        self._channel = channel
        self._clock = clock
        checked(channel.url)
        self._where = shown(channel.url)
        self._client: paho.Client | None = None
        self._came: asyncio.Queue[paho.MQTTMessage | str] = asyncio.Queue()
        #: The broker's number, a digest of the body, and our id of the last messages.
        self._under_way: list[tuple[int, str, str]] = []

    async def open(self, notes: Mapping[str, str]) -> None:
        """Connect to the session, and subscribe. Raises BusError."""
        parts = urlsplit(self._channel.url)
        loop = asyncio.get_running_loop()
        self._came = asyncio.Queue()
        ready: asyncio.Future[None] = loop.create_future()
        self._under_way = msgspec.json.decode(notes.get(_NOTE, "[]"), type=list[tuple[int, str, str]])
        name = f"antiphon-{self._channel.app}-{self._channel.name}"
        client = self._client = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id=name,
            clean_session=False,
            reconnect_on_failure=False,
            manual_ack=True,
        )
        if parts.username is not None:
            client.username_pw_set(unquote(parts.username), unquote(parts.password or ""))
        if parts.scheme == "mqtts":
            client.tls_set()

        def tell(outcome: str | None) -> None:
            if not ready.done():
                ready.set_exception(ConnectionError(outcome)) if outcome else ready.set_result(None)
            elif outcome:
                self._came.put_nowait(outcome)

        def said(outcome: str | None) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(tell, outcome)

        def on_connect(_: Any, __: Any, ___: Any, reason: Any, ____: Any) -> None:
            if reason.is_failure:
                said(f"refused: {reason}")
            else:
                client.subscribe([(each, _QUALITY) for each in self._channel.inbound])

        def on_message(_: Any, __: Any, message: paho.MQTTMessage) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(self._came.put_nowait, message)

        def on_subscribe(_: Any, __: Any, ___: Any, reasons: Any, ____: Any) -> None:
            refused = [str(each) for each in reasons if each.is_failure]
            said(f"no subscription: {refused[0]}" if refused else None)

        client.on_connect, client.on_subscribe = on_connect, on_subscribe
        client.on_disconnect = lambda *reasons: said(f"the connection was lost: {reasons[3]}")
        client.on_message = on_message
        async with translated(self._where, "cannot be reached"):
            port = parts.port or (8883 if parts.scheme == "mqtts" else 1883)
            await asyncio.to_thread(client.connect, parts.hostname or "", port, _ALIVE_S)
            client.loop_start()
            await ready

    async def receive(self, limit: int) -> Sequence[Message]:
        """What has come. Raises BusError when the connection is lost."""
        came = [await self._came.get()]
        while len(came) < limit and not self._came.empty():
            came.append(self._came.get_nowait())
        lost = next((each for each in came if isinstance(each, str)), None)
        messages = [self._message(each) for each in came if not isinstance(each, str)]
        if lost is not None:
            raise BusError(lost, where=self._where)
        if messages:
            note = (_NOTE, msgspec.json.encode(self._under_way).decode())
            messages[-1] = msgspec.structs.replace(messages[-1], note=note)
        return messages

    async def acknowledge(self, messages: Sequence[Message]) -> None:
        """Acknowledge each of *messages*."""
        for message in messages:
            number, quality = message.token
            if quality and self._client is not None:
                self._client.ack(number, quality)

    async def close(self) -> None:
        """Disconnect; the session stays. Idempotent."""
        client, self._client = self._client, None
        if client is not None:
            client.on_disconnect = client.on_message = None
            client.disconnect()
            async with asyncio.timeout(PATIENCE_S):
                await asyncio.to_thread(client.loop_stop)

    def _message(self, came: paho.MQTTMessage) -> Message:
        digest = blake2b(f"{came.topic}\0".encode() + came.payload, digest_size=12).hexdigest()
        known = (each for number, same, each in reversed(self._under_way) if (number, same) == (came.mid, digest))
        message_id = (next(known, None) if came.dup else None) or self._clock.new_id()
        if came.qos:
            self._under_way = [*self._under_way, (came.mid, digest, message_id)][-_UNDER_WAY:]
        places = list(self._channel.inbound)
        place = next((each for each in places if paho.topic_matches_sub(_filter(each), came.topic)), None)
        return Message(
            topic=places[0] if place is None else place,
            body=bytes(came.payload),
            headers={"topic": came.topic},
            id=message_id,
            token=(came.mid, came.qos),
            # The session has subscriptions that were declared once.
            problem=f"no place is declared for the topic {came.topic!r:.200}" if place is None else None,
        )


def _filter(place: str) -> str:
    """The filter of a subscription, which may be shared: ``$share/<group>/<filter>``."""
    return place.split("/", 2)[2] if place.startswith("$share/") and place.count("/") > 1 else place
