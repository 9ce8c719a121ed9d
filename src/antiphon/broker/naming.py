"""Names on a bus."""

from __future__ import annotations

import hashlib
import re
from urllib.parse import parse_qsl, urlencode, urlsplit

_QUERY = re.compile("[?#]")
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
    parts = urlsplit(url)
    query = dict(parse_qsl(parts.query))
    name = query.pop("name", None)
    return parts._replace(query=urlencode(query)).geturl(), name


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
