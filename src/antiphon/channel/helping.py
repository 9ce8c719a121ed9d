"""What the channels share: errors told as one, headers as text."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote, unquote

from antiphon.errors import BusError

#: How long a server may take to answer.
PATIENCE_S = 10.0
_HEADER_SAFE = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) not in '"%')


@asynccontextmanager
async def translated(where: str, what: str, *errors: type[Exception]) -> AsyncIterator[None]:
    """Raise BusError for *errors*, and for a server that does not answer or is not there."""
    expected: tuple[type[Exception], ...] = (OSError, TimeoutError, *errors)
    try:
        async with asyncio.timeout(PATIENCE_S):
            yield
    except expected as error:
        reason = str(error) or type(error).__name__
        raise BusError(f"it {what}: {reason}", where=where) from error


def text(value: Any) -> str:
    """A header's value as text."""
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def split(headers: Mapping[str, Any], prefixes: Iterable[str]) -> tuple[dict[str, object], dict[str, str]]:
    """The CloudEvents attributes among *headers*, which begin with one of *prefixes*, without it; and the others."""
    attributes: dict[str, object] = {}
    others: dict[str, str] = {}
    for name, value in headers.items():
        prefix = next((each for each in prefixes if name.lower().startswith(each.lower())), None)
        if prefix is None:
            others[name.lower()] = text(value)
        else:
            attributes[name[len(prefix) :].lower()] = value if isinstance(value, int) else text(value)
    return attributes, others


def to_headers(attributes: Mapping[str, object]) -> dict[str, str]:
    """CloudEvents attributes as headers of HTTP, and of all that takes its rules: percent-encoded."""
    return {f"ce-{name}": quote(text(value), safe=_HEADER_SAFE) for name, value in attributes.items()}


def from_headers(headers: Mapping[str, str]) -> tuple[dict[str, object], dict[str, str]]:
    """The attributes among such headers, and the others."""
    attributes, others = split(headers, ("ce-",))
    return {name: unquote(text(value).strip()) for name, value in attributes.items()}, others
