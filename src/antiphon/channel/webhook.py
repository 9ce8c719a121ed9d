"""Webhooks in: what is POSTed to ``/channels/<name>`` of the gateway, and signed.

A place is the ``type`` that a body has besides its ``data``, as in Standard Webhooks; of a channel with a single place,
what has no such type is the data itself. CloudEvents over HTTP are understood as everywhere. A message is known by its
``webhook-id``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any

import msgspec

from antiphon.channel.helping import from_headers
from antiphon.errors import DeclarationError
from antiphon.model.channels import ChannelSpec, Message
from antiphon.policy import webhooks
from antiphon.ports import Clock

TOLERANCE = timedelta(minutes=5)


class ChannelSource:
    """Where nothing comes from (``ports.Source``): the gateway takes it."""

    def __init__(self, channel: ChannelSpec, clock: Clock) -> None:
        pass

    async def open(self, notes: Mapping[str, str]) -> None:
        """Nothing is to be opened."""

    async def receive(self, limit: int) -> Sequence[Message]:
        """Never anything."""
        await asyncio.Event().wait()
        return ()

    async def acknowledge(self, messages: Sequence[Message]) -> None:
        """Nothing was received."""

    async def close(self) -> None:
        """Nothing is open."""


class Desk:
    """Looks at what is sent to one channel."""

    def __init__(self, channel: ChannelSpec) -> None:
        self._channel = channel
        options = channel.options
        given = options.get("secret")
        secrets = [given] if isinstance(given, str | bytes) else list(given or ())
        #: The header that has the plain signature, where the sender knows no other.
        self._header: str = options.get("signature", "").lower()
        self._id_header: str = options.get("id", webhooks.ID).lower()
        key_of: Callable[[Any], bytes] = _plain_key if self._header else _standard_key
        try:
            self._keys = [key_of(secret) for secret in secrets]
        except ValueError as error:
            raise DeclarationError(f"the secret cannot be used: {error}", where=channel.source) from error
        if not self._keys:
            raise DeclarationError(
                "a webhook's channel has a secret",
                where=channel.source,
                mend='options={"secret": os.environ["..."]}; a list of two, while one takes the other\'s place',
            )
        self._tolerance_s = options.get("tolerance", TOLERANCE).total_seconds()

    def is_signed(self, headers: Mapping[str, str], body: bytes, now_ms: int) -> bool:
        """Whether it comes from who has the secret, and now. Names of *headers* are in lower case."""
        if self._header:
            return webhooks.is_plain(self._keys, headers.get(self._header, ""), body)
        return webhooks.is_standard(self._keys, headers, body, now_ms / 1000, self._tolerance_s)

    def message(self, headers: Mapping[str, str], body: bytes) -> Message:
        """What was sent."""
        attributes, others = from_headers(headers)
        content_type = others.get("content-type", "")
        topic, data = self._parts(body)
        return Message(
            topic=topic,
            body=body if attributes or "cloudevents" in content_type else data,
            content_type=content_type,
            attributes=attributes,
            headers=others,
            id=others.get(self._id_header),
        )

    def _parts(self, body: bytes) -> tuple[str, bytes]:
        places = list(self._channel.inbound)
        try:
            parts = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
            name = msgspec.json.decode(parts["type"], type=str)
        except (msgspec.MsgspecError, UnicodeDecodeError, KeyError, RecursionError):
            return places[0], body  # the mapping tells what is wrong with it, if it is
        if name in places and "data" in parts:
            return name, bytes(parts["data"])
        return places[0], body


def _standard_key(secret: str) -> bytes:
    return webhooks.key_of(secret)


def _plain_key(secret: str | bytes) -> bytes:
    return secret if isinstance(secret, bytes) else secret.encode()
