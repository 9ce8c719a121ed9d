"""The bus at a URL. Each broker's library is an extra, and imported when it is used."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta
from importlib import import_module
from pathlib import Path
from typing import Any

from antiphon.broker.naming import shown, without_name
from antiphon.errors import DeclarationError
from antiphon.ports import Bus, Clock, MakeBus

#: By the URL's scheme: the module, its class, and the extra that brings its library.
_BUSES = {
    "nats": ("nats", "NatsBus", "nats"),
    "tls": ("nats", "NatsBus", "nats"),
    "redis": ("redis", "RedisBus", "redis"),
    "rediss": ("redis", "RedisBus", "redis"),
    "amqp": ("rabbitmq", "RabbitBus", "rabbitmq"),
    "amqps": ("rabbitmq", "RabbitBus", "rabbitmq"),
    "sqs": ("sqs", "SqsBus", "aws"),
    "eventbridge": ("eventbridge", "EventBridgeBus", "aws"),
    "kinesis": ("kinesis", "KinesisBus", "aws"),
    "kafka": ("kafka", "KafkaBus", "kafka"),
    "kafka+ssl": ("kafka", "KafkaBus", "kafka"),
}
_NAME = re.compile(r"[a-z0-9_]{1,64}")


def bus_at(url: str, app: str, *, keep: timedelta) -> MakeBus:
    """A factory of buses at *url* for the app of this name; what was taken stays readable for *keep*.

    ``?name=...`` in the URL names the bus otherwise than the app, so that several apps can share one, or one app have
    several. Raises DeclarationError for a URL that is no bus's, and where its library is not installed.
    """
    scheme, separator, _ = url.partition("://")
    url, name = without_name(url)
    bus_name = app if name is None else name
    if not _NAME.fullmatch(bus_name):
        raise DeclarationError(f"{bus_name!r} is no name of a bus", mend="Lower-case letters, digits and _")
    if scheme not in _BUSES:
        known = ", ".join(f"{each}://" for each in _BUSES)
        what = f"no bus is known at {shown(url)!r}" if separator else "the address of the bus is no URL"
        raise DeclarationError(what, mend=f"There are: {known}")
    module, class_name, extra = _BUSES[scheme]
    try:
        bus_class: Callable[..., Bus] = getattr(import_module(f"antiphon.broker.{module}"), class_name)
    except ModuleNotFoundError as error:
        raise DeclarationError(
            f"the library of {scheme}:// is not installed ({error.name})", mend=f"pip install 'antiphon[{extra}]'"
        ) from error

    def make(path: Path, *, clock: Clock, owner: str, **place: Any) -> Bus:
        return bus_class(url, name=bus_name, clock=clock, keep=keep)

    return make
