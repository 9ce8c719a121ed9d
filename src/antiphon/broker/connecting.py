"""The bus at a URL. Each broker's library is an extra, and imported when it is used."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from antiphon.broker.naming import shown
from antiphon.errors import DeclarationError
from antiphon.ports import Bus, Clock

#: By the URL's scheme: the module, its class, and the extra that brings its library.
_BUSES = {
    "nats": ("nats", "NatsBus", "nats"),
    "tls": ("nats", "NatsBus", "nats"),
    "redis": ("redis", "RedisBus", "redis"),
    "rediss": ("redis", "RedisBus", "redis"),
    "amqp": ("rabbitmq", "RabbitBus", "rabbitmq"),
    "amqps": ("rabbitmq", "RabbitBus", "rabbitmq"),
}


class MakeBus(Protocol):
    """Makes a bus that is not open yet. What it needs beside its URL depends on it."""

    def __call__(self, path: Path, *, clock: Clock, owner: str, **place: Any) -> Bus: ...


def bus_at(url: str, app: str, *, keep: timedelta) -> MakeBus:
    """A factory of buses at *url* for the app of this name; what was taken stays readable for *keep*.

    Raises DeclarationError for a URL that is no bus's, and where its library is not installed.
    """
    scheme = url.partition("://")[0]
    if scheme not in _BUSES:
        known = ", ".join(f"{each}://" for each in _BUSES)
        raise DeclarationError(f"no bus is known at {shown(url)!r}", mend=f"There are: {known}")
    module, name, extra = _BUSES[scheme]
    try:
        bus_class: Callable[..., Bus] = getattr(import_module(f"antiphon.broker.{module}"), name)
    except ModuleNotFoundError as error:
        raise DeclarationError(
            f"the library of {scheme}:// is not installed ({error.name})", mend=f"pip install 'antiphon[{extra}]'"
        ) from error

    def make(path: Path, *, clock: Clock, owner: str, **place: Any) -> Bus:
        return bus_class(url, app=app, clock=clock, keep=keep)

    return make
