"""Arguments that several commands share."""

from __future__ import annotations

import argparse
import os
import re
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

DATA, STORE, BUS = "ANTIPHON_DATA", "ANTIPHON_STORE", "ANTIPHON_BUS"
_UNITS = {"ms": "milliseconds", "s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_SPAN = re.compile(r"(\d+(?:\.\d+)?)(ms|[smhdw])")


def add_app(parser: argparse.ArgumentParser, *, optional: bool = False) -> None:
    """The application, as the argument ``app``."""
    parser.add_argument(
        "app",
        metavar="APP",
        nargs="?" if optional else None,
        help="the application as module:attribute, looked for in the current directory too (attribute: app)",
    )


def add_data(parser: argparse.ArgumentParser) -> None:
    """The data directory, as ``data``."""
    parser.add_argument(
        "--data",
        metavar="DIR",
        type=Path,
        default=Path(os.environ.get(DATA) or "data"),
        help=f"the data directory (default: ${DATA}, else ./data)",
    )


def add_stores(parser: argparse.ArgumentParser) -> None:
    """Where the stores are: the data directory, as ``data``, or a database, as ``store``."""
    add_data(parser)
    parser.add_argument(
        "--store",
        metavar="URL",
        type=url,
        default=os.environ.get(STORE) or None,
        help=f"the database that holds the stores: postgresql://, mariadb:// (default: ${STORE}, else files)",
    )


def add_bus(parser: argparse.ArgumentParser, *, otherwise: str = "as the app says") -> None:
    """The broker between the services, as ``bus``; *otherwise* is what holds where none is named."""
    parser.add_argument(
        "--bus",
        metavar="URL",
        type=url,
        default=os.environ.get(BUS) or None,
        help=f"the broker between the services: nats://, redis://, amqp://, kafka://, sqs://, ... "
        f"(default: ${BUS}, else {otherwise})",
    )


def add_json(parser: argparse._ActionsContainer, what: str = "one JSON object") -> None:
    """The switch to machine-readable output, as ``json``."""
    parser.add_argument("--json", action="store_true", help=f"print {what}")


def url(text: str) -> str:
    """A URL. One that is empty, as of a variable that is not set, would quietly mean something else."""
    if not text.strip():
        raise argparse.ArgumentTypeError("it is empty; name a URL, or leave the option out")
    return text


def span(text: str) -> timedelta:
    """A span of time such as ``90s``, ``15m``, ``24h`` or ``7d``."""
    match = _SPAN.fullmatch(text.strip().lower())
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no span of time; write 90s, 15m, 24h or 7d")
    return timedelta(**{_UNITS[match[2]]: float(match[1])})


def names(text: str) -> list[str]:
    """Names with commas between them."""
    return [name.strip() for name in text.split(",") if name.strip()]


def addresses(text: str) -> dict[str, str]:
    """URLs of services by name: ``booking=http://booking:8000``, with commas between them."""
    found = {}
    for each in names(text):
        name, _, url = each.partition("=")
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.path.strip("/") or parts.query:
            raise argparse.ArgumentTypeError(f"{each!r} is no address; write booking=http://booking:8000")
        found[name] = url.rstrip("/")
    return found


def positive(text: str) -> int:
    """A whole number above zero."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number above zero")
    return int(text)


def share(text: str) -> float:
    """A share between 0 and 1, or in per cent."""
    try:
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no share; write 0.2 or 20%")
    return value
