"""Where an event was born, which regions it has passed, and where it may go: it crosses once, and never loops.

The service of an event from another region is the reference ``region://<region>/<service>`` to where it was born; the
regions between that and here, in their order, are its fragment: ``region://us/customers#eu``. On the wire they are an
attribute.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple

_REFERENCE = re.compile(r"region://(?P<region>[a-z][a-z0-9_-]*)/(?P<service>[^#]*)(#(?P<via>[a-z0-9_,-]*))?")
_LIST = re.compile(r"[a-z][a-z0-9_-]*(,[a-z][a-z0-9_-]*)*")


class Birth(NamedTuple):
    """The region in which an event was born (None: this one), the service there, and the regions in between."""

    region: str | None
    service: str
    via: tuple[str, ...]


@dataclass(frozen=True)
class Looped:
    """An event that has been in this region already."""


def birth(service: str) -> Birth:
    """What the *service* of an envelope tells."""
    match = _REFERENCE.fullmatch(service)
    if match is None:
        return Birth(None, service, ())
    return Birth(match["region"], match["service"], tuple(match["via"].split(",")) if match["via"] else ())


def region_of(service: str, here: str) -> str:
    """The region in which an event of *service* was born."""
    return birth(service).region or here


def leave(service: str, here: str, peer: str) -> str | None:
    """The regions that an event will have passed when it leaves *here* for *peer*, as they are sent; None if it has
    been at *peer* already."""
    born = birth(service)
    passed = (*(() if born.region is None else (born.region, *born.via)), here)
    return None if peer in passed else ",".join(passed)


def source_of(service: str, here: str) -> str:
    """What an event's service is called in other regions."""
    born = birth(service)
    return _reference(born.region or here, born.service)


def arrive(service: str, passed: object, here: str, peer: str) -> str | Looped:
    """The service of an event that has come *here* from *peer*, having *passed* regions; or that it has been here."""
    regions = passed.split(",") if isinstance(passed, str) and _LIST.fullmatch(passed) else [peer]
    if here in regions:
        return Looped()
    born = birth(service)
    first = born.region or regions[0]
    if first == here:
        return Looped()
    via = [each for each in regions if each != first]
    return _reference(first, born.service) + (f"#{','.join(via)}" if via else "")


def _reference(region: str, service: str) -> str:
    return f"region://{region}/{service.replace('#', '%23')}"
