"""Names on a bus."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection
from urllib.parse import parse_qsl, urlencode

from antiphon.errors import DeclarationError

_QUERY = re.compile("[?#]")
_PORT = re.compile(r"^([^:]*|\[.*\])(:[0-9]{0,5})?$")
_PLAIN = re.compile(r"[A-Za-z0-9_.:-]{1,120}")
_UNSAFE = re.compile(r"[^A-Za-z0-9_-]")


def quoted(name: str) -> str:
    """*name* as one part of a subject or routing key: what has a meaning there is written ``=<hex>``."""
    return _UNSAFE.sub(lambda match: "".join(f"={byte:02X}" for byte in match[0].encode()), name)


def is_plain(text: str) -> bool:
    """Whether it can be part of a group's name or an id everywhere."""
    return _PLAIN.fullmatch(text) is not None


def plain(text: str) -> str:
    """*text* where it can be part of a group's name or an id, else its digest."""
    return text if is_plain(text) else hashlib.sha256(text.encode()).hexdigest()


def without_name(url: str) -> tuple[str, str | None]:
    """*url* without ``name=...`` in its query, and that name."""
    login, at, place = url.rpartition("@")
    place, _, options = place.partition("?")
    query = dict(parse_qsl(options, keep_blank_values=True))
    if "name" not in query:
        return url, None
    name = query.pop("name")
    return f"{login}{at}{place}{'?' if query else ''}{urlencode(query)}", name


def checked(url: str, known: Collection[str] = ()) -> str:
    """*url*, if its port is a number and its options are among those *known*. Raises DeclarationError: a client would
    pass over what it does not know, or try for ever what cannot be. Nothing before the last @ is looked at or shown."""
    login, _, place = url.partition("://")[2].rpartition("@")
    if any(mark in login for mark in "/?#"):
        mend = "In a user or password / ? # @ : are written %2F %3F %23 %40 %3A"
        raise DeclarationError("it cannot be read", where=shown(url), mend=mend)
    place, _, options = place.partition("?")
    if not _PORT.search(_QUERY.split(place.partition("/")[0])[0]):
        raise DeclarationError("its port is no number", where=shown(url))
    if unknown := sorted(dict(parse_qsl(options, keep_blank_values=True)).keys() - set(known)):
        mend = f"There are: {', '.join(('name', *known))}"
        raise DeclarationError(f"no option {unknown[0]!r}", where=shown(url), mend=mend)
    return url


def shown(url: str) -> str:
    """*url* as it may be shown: without user and password, and without its query."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        scheme, rest = "", url
    if not rest.startswith("/"):
        # A password may have /, ? or # as they are, and several servers a password each: whatever is before the last @
        # is left out.
        rest = rest.rpartition("@")[2]
    return f"{scheme}{separator}{_QUERY.split(rest, maxsplit=1)[0]}"
