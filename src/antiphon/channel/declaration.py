"""A channel as a member of its app: what is declared, checked; and the handlers, routes and tables that it has."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from antiphon.channel import webhook
from antiphon.channel.connecting import scheme_of
from antiphon.channel.mapping import PASSES_ON
from antiphon.errors import DeclarationError
from antiphon.model.channels import ChannelSpec
from antiphon.model.events import EventType, event_type_of
from antiphon.model.handlers import HandlerSpec, ServiceSpec

_REGION = re.compile(r"[a-z][a-z0-9_-]{0,47}")

#: Up to where what comes in has been taken, for foreign systems that do not remember it for us.
TABLES = """
CREATE TABLE IF NOT EXISTS channel_notes (
    channel VARCHAR(48) NOT NULL,
    name VARCHAR(255) NOT NULL,
    note TEXT NOT NULL,
    PRIMARY KEY (channel, name)
);
"""
RECEIVE, FORWARD = "receive", "forward"


def declare(
    name: str,
    app: str,
    url: str,
    *,
    inbound: Mapping[str, Any] | None,
    outbound: Mapping[str, Any] | None,
    region: str | None,
    peer: str | None,
    replicate: Iterable[type],
    where: str,
    functions: Mapping[str, Callable[..., Any] | None],
    options: Mapping[str, Any],
) -> ChannelSpec:
    """The channel that is declared so at *where*. Raises DeclarationError for what cannot work."""
    try:
        scheme = scheme_of(url)
    except DeclarationError as error:
        error.where = where
        raise
    coming, going = _types(inbound, where), _types(outbound, where)
    if region is not None or peer is not None or replicate:
        if coming or going:
            raise DeclarationError("a channel between regions has replicate=, not inbound= and outbound=", where=where)
        if not scheme.joins:
            raise DeclarationError(f"regions cannot be joined by {url.partition('://')[0]}://", where=where)
        coming, going = _between(app, region, peer, replicate, where)
    if not coming and not going:
        raise DeclarationError(
            "nothing comes or goes by this channel", where=where, mend='Say inbound={"name": Event} or outbound={...}'
        )
    kind = url.partition("://")[0]
    for types, able, word in ((coming, scheme.receives, "in"), (going, scheme.sends, "out")):
        if types and not able:
            raise DeclarationError(f"by {kind}:// nothing can come {word}", where=where)
    allowed = scheme.options | ({PASSES_ON} if region is not None else set())
    if unknown := sorted(set(options) - allowed):
        known = ", ".join(sorted(allowed)) or "none"
        raise DeclarationError(
            f"a channel at {kind}:// has no option {', '.join(unknown)}", where=where, mend=f"Its own are: {known}"
        )
    declared = ChannelSpec(
        name, app, url, coming, going, where, options=dict(options), region=region, peer=peer, **functions
    )
    if scheme.module == "webhook":
        webhook.Desk(declared)  # so that a secret that cannot be used is said here
    return declared


def service_of(channel: ChannelSpec) -> ServiceSpec:
    """What runs the channel: a service with two handlers, which the runtime runs in its own way."""
    handlers = []
    if channel.inbound:
        handlers.append(_handler(channel, RECEIVE, (), channel.received))
    if channel.outbound:
        handlers.append(_handler(channel, FORWARD, channel.sent, ()))
    return ServiceSpec(channel.name, TABLES, tuple(handlers), (), ())


def _handler(
    channel: ChannelSpec, name: str, types: tuple[EventType, ...], publishes: tuple[EventType, ...]
) -> HandlerSpec:
    return HandlerSpec(
        name=f"{channel.name}.{name}",
        service=channel.name,
        fn=_moved,
        types=types,
        publishes=publishes,
        parameters=(),
        is_async=True,
        source=channel.source,
        channel=channel,
    )


async def _moved() -> None:
    """Stands where a handler has its function: a channel's handlers are not called, the runtime moves messages."""


def _types(declared: Mapping[str, Any] | None, where: str) -> dict[str, tuple[EventType, ...]]:
    found = {}
    for topic, classes in (declared or {}).items():
        given = tuple(classes) if isinstance(classes, list | tuple | set | frozenset) else (classes,)
        try:
            found[topic] = tuple(event_type_of(each) for each in given)
        except DeclarationError as error:
            error.where = where
            raise
        if not topic or not given:
            raise DeclarationError(f"{topic!r}: {classes!r} names no place, or no event", where=where)
        if commands := [each.name for each in found[topic] if each.target is not None or each.domain]:
            raise DeclarationError(
                f"{', '.join(commands)} stays inside this app",
                where=where,
                mend="By a channel go events that are anybody's: no commands, and no events with domain=True",
            )
    return found


def _between(
    app: str, region: str | None, peer: str | None, replicate: Iterable[type], where: str
) -> tuple[dict[str, tuple[EventType, ...]], dict[str, tuple[EventType, ...]]]:
    """What comes and goes between two regions: at a place for each direction."""
    for name, value in (("region", region), ("peer", peer)):
        if not isinstance(value, str) or not _REGION.fullmatch(value):
            raise DeclarationError(
                f"{name}={value!r} cannot name a region",
                where=where,
                mend='A channel between regions says region="this one", peer="the other", replicate=[Event, ...]',
            )
    if region == peer:
        raise DeclarationError(f"region and peer are both {region!r}", where=where)
    types = _types({"replicate": list(replicate)}, where)["replicate"]
    return {f"{app}.{peer}.{region}": types}, {f"{app}.{region}.{peer}": types}
