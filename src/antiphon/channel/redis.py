"""Redis Streams: entries of streams, read by position; and entries added to streams.

A place is a stream. An entry is a CloudEvent as structured JSON in the field ``event``; or a body in the field
``data``; or else a row, each of its fields a column. What goes out has ``type`` and ``event``, or ``data``. A stream is
only read: there is no consumer group, and nothing to acknowledge. What is trimmed before it was read is lost, which is
said.

Between regions the stream is the channel's own: the receiver, which is the only one, removes what it has taken.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from redis.exceptions import RedisError, ResponseError

from antiphon.broker.naming import shown
from antiphon.broker.redis import client_at
from antiphon.broker.waves import waves
from antiphon.channel.helping import PATIENCE_S, text, translated
from antiphon.channel.mapping import structured
from antiphon.model.channels import ChannelSpec, Message
from antiphon.ports import Clock
from antiphon.wire import STRUCTURED

log = logging.getLogger("antiphon.channel")

_BLOCK_MS = 1_000
_TRIM_EVERY = 500
_START = "0-0"


class _Connected:
    """A client."""

    def __init__(self, channel: ChannelSpec, clock: Clock) -> None:
        self._channel = channel
        self._where = shown(channel.url)
        # What its commands return is typed as everything that it could be in any version of the protocol.
        self._client: Any = client_at(channel.url, PATIENCE_S)

    async def close(self) -> None:
        """Disconnect. Idempotent."""
        try:
            await self._client.aclose()
        except (RedisError, OSError):
            pass  # nothing is held there


class ChannelSource(_Connected):
    """Reads streams from where they were left (``ports.Source``)."""

    async def open(self, notes: Mapping[str, str]) -> None:
        """See that the server is there. Raises BusError."""
        self._after = {stream: notes.get(stream, _START) for stream in self._channel.inbound}
        self._taken = 0
        async with translated(self._where, "cannot be reached", RedisError):
            for stream, after in self._after.items():
                await self._see_what_is_lost(stream, after)

    async def receive(self, limit: int) -> Sequence[Message]:
        """The next entries; none after a second. Raises BusError."""
        async with translated(self._where, "cannot be read", RedisError):
            answer = await self._client.xread(self._after, count=limit, block=_BLOCK_MS)
        found = []
        for stream, entries in _streams(answer):
            for entry_id, fields in entries:
                self._after[stream] = text(entry_id)
                found.append(self._message(stream, text(entry_id), fields or {}))
        return found

    async def acknowledge(self, messages: Sequence[Message]) -> None:
        """Nothing: the notes tell. What lies between regions is removed now and then. Raises BusError."""
        self._taken += len(messages)
        if self._channel.region is not None and self._taken >= _TRIM_EVERY:
            self._taken = 0
            async with translated(self._where, "cannot remove what was taken", RedisError):
                for stream, after in self._after.items():
                    await self._client.xtrim(stream, minid=after)

    async def _see_what_is_lost(self, stream: str, after: str) -> None:
        try:
            info = await self._client.xinfo_stream(stream)
        except ResponseError:
            return  # there is no such stream yet
        removed = text(info.get("max-deleted-entry-id", _START))
        if self._channel.region is None and after != _START and _number(removed) > _number(after):
            log.error(
                "%s: entries of %s up to %s are gone, and were read up to %s", self._where, stream, removed, after
            )

    def _message(self, stream: str, entry_id: str, fields: Mapping[bytes, bytes]) -> Message:
        names = {text(name): value for name, value in fields.items()}
        named: dict[str, Any] = {"topic": stream, "id": f"{stream}/{entry_id}", "note": (stream, entry_id)}
        named["time_ms"] = int(entry_id.partition("-")[0])
        if "event" in names:
            return Message(body=names["event"], content_type=STRUCTURED, **named)
        if "data" in names:
            headers = {name: text(value) for name, value in names.items() if name != "data"}
            return Message(body=names["data"], headers=headers, **named)
        row = {name: text(value) for name, value in names.items()}
        return Message(body=repr(row).encode(), row=row, **named)


class ChannelSink(_Connected):
    """Adds entries (``ports.Sink``). Redis confirms what it has in memory; see its ``appendfsync``."""

    async def open(self) -> None:
        """See that the server is there. Raises BusError."""
        async with translated(self._where, "cannot be reached", RedisError):
            await self._client.ping()

    async def send(self, messages: Sequence[Message]) -> Mapping[int, str]:
        """Add all, in order. Raises BusError."""
        for wave in waves(messages):
            async with (
                translated(self._where, "has not confirmed", RedisError),
                self._client.pipeline(False) as pipeline,
            ):
                for message in wave:
                    fields: dict[str, Any] = {"type": message.attributes.get("type", ""), "event": structured(message)}
                    pipeline.xadd(message.topic, fields if message.attributes else {"data": message.body})
                await pipeline.execute()
        return {}


def _streams(answer: Any) -> list[tuple[str, list[tuple[bytes, Mapping[bytes, bytes]]]]]:
    """What was read, by stream: a list in one version of the protocol, a mapping in the other."""
    if isinstance(answer, Mapping):
        return [(text(stream), [entry for part in parts for entry in part]) for stream, parts in answer.items()]
    return [(text(stream), entries) for stream, entries in answer or ()]


def _number(entry_id: str) -> tuple[int, int]:
    ms, _, number = entry_id.partition("-")
    return int(ms), int(number or 0)
