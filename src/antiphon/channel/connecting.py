"""The source and the sink of a channel, by its URL. Each library is an extra, and imported when it is used."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any

from antiphon.broker.naming import shown
from antiphon.errors import DeclarationError, NotInstalled
from antiphon.model.channels import ChannelSpec
from antiphon.ports import Clock, Sink, Source


@dataclass(frozen=True)
class Scheme:
    """What a scheme of URLs can: its module, what it can do (*joins*: regions), the extra of its library, and the
    options it knows."""

    module: str
    receives: bool = True
    sends: bool = True
    joins: bool = False
    extra: str | None = None
    options: frozenset[str] = frozenset()


_KAFKA = Scheme("kafka", joins=True, extra="kafka")
_MQTT = Scheme("mqtt", sends=False, extra="mqtt")
_NATS = Scheme("nats", joins=True, extra="nats")
_RABBITMQ = Scheme("rabbitmq", joins=True, extra="rabbitmq")
_REDIS = Scheme("redis", joins=True, extra="redis")
_ROWS = frozenset({"column", "key", "where", "every", "late"})
_MARIADB = Scheme("table", sends=False, extra="mariadb", options=_ROWS)
_POSTGRES = Scheme("table", sends=False, extra="postgres", options=_ROWS)

#: By the URL's scheme.
SCHEMES = {
    "amqp": _RABBITMQ,
    "amqps": _RABBITMQ,
    "kafka": _KAFKA,
    "kafka+ssl": _KAFKA,
    "nats": _NATS,
    "tls": _NATS,
    "redis": _REDIS,
    "rediss": _REDIS,
    "table+sqlite": Scheme("table", sends=False, options=_ROWS),
    "table+postgresql": _POSTGRES,
    "table+postgres": _POSTGRES,
    "table+mariadb": _MARIADB,
    "table+mysql": _MARIADB,
    "webhook": Scheme("webhook", sends=False, options=frozenset({"secret", "signature", "id", "tolerance"})),
    "mqtt": _MQTT,
    "mqtts": _MQTT,
    "folder": Scheme("folder", options=frozenset({"every", "delimiter", "encoding"})),
}


def scheme_of(url: str) -> Scheme:
    """The scheme of *url*. Raises DeclarationError for one that nobody knows."""
    name = url.partition("://")[0]
    if name not in SCHEMES or "://" not in url:
        what = f"no channel is known at {shown(url)!r}" if "://" in url else "the address of a channel is no URL"
        raise DeclarationError(what, mend=f"There are: {', '.join(f'{each}://' for each in SCHEMES)}")
    return SCHEMES[name]


def source_at(channel: ChannelSpec, clock: Clock) -> Source:
    """A source that is not open yet. Raises DeclarationError, NotInstalled."""
    source: Source = _made("ChannelSource", channel, clock)
    return source


def sink_at(channel: ChannelSpec, clock: Clock) -> Sink:
    """A sink that is not open yet. Raises DeclarationError, NotInstalled."""
    sink: Sink = _made("ChannelSink", channel, clock)
    return sink


def check(channel: ChannelSpec, clock: Clock) -> None:
    """Raise DeclarationError where its library is not installed, or does not understand its URL."""
    if channel.inbound:
        source_at(channel, clock)
    if channel.outbound:
        sink_at(channel, clock)


def _made(class_name: str, channel: ChannelSpec, clock: Clock) -> Any:
    scheme = scheme_of(channel.url)
    try:
        module = import_module(f"antiphon.channel.{scheme.module}")
    except ModuleNotFoundError as error:
        raise NotInstalled(
            f"the library of {channel.url.partition('://')[0]}:// is not installed ({error.name})",
            where=f"channel {channel.name!r}",
            mend=f"pip install 'antiphon[{scheme.extra}]'",
        ) from error
    return getattr(module, class_name)(channel, clock)
