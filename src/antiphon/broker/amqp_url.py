"""What a URL of RabbitMQ says: where the server is, and how it is spoken to."""

from __future__ import annotations

import math
import ssl
from collections.abc import Mapping
from contextlib import suppress
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from pika import ConnectionParameters, PlainCredentials, SSLOptions
from pika.credentials import ExternalCredentials

from antiphon.broker.naming import checked, shown
from antiphon.errors import DeclarationError

_OPTIONS = ("heartbeat", "timeout", "auth", "cafile", "capath", "cadata", "certfile", "keyfile", "no_verify_ssl")
_PORTS = {"amqp": 5672, "amqps": 5671}
_CONNECT_WITHIN_S = 10.0
# pika looks each heartbeat and five seconds: a server that vanished without a word is given up at the second look.
_HEARTBEAT_S = 20


def parameters(url: str) -> ConnectionParameters:
    """What *url* says: ``amqp[s]://user:password@host:port/virtual-host?options``. Raises DeclarationError."""
    split = urlsplit(checked(url, _OPTIONS))
    options = dict(parse_qsl(split.query))
    try:
        timeout = _number(options, "timeout", _CONNECT_WITHIN_S)
        return ConnectionParameters(
            host=split.hostname or "localhost",
            port=split.port or _PORTS[split.scheme],
            virtual_host=unquote(split.path[1:]) or "/",
            credentials=_credentials(split, options.get("auth", "plain").lower()),
            heartbeat=int(_number(options, "heartbeat", _HEARTBEAT_S)),
            ssl_options=_tls(options, split.hostname) if split.scheme == "amqps" else None,
            socket_timeout=timeout,
            stack_timeout=timeout,
        )
    except ValueError as error:
        raise DeclarationError(f"an option cannot be used: {error}", where=shown(url)) from error
    except OSError as error:
        what = f"what cafile, capath, certfile or keyfile names cannot be used: {error}"
        raise DeclarationError(what, where=shown(url)) from error


def _number(options: Mapping[str, str], name: str, usual: float) -> float:
    said = options.get(name)
    if said is None:
        return usual
    with suppress(ValueError):
        seconds = float(said)
        if 0 <= seconds < math.inf:
            return seconds
    raise ValueError(f"{name} is in seconds, and {said!r} is no number of them")


def _credentials(split: SplitResult, mechanism: str) -> PlainCredentials | ExternalCredentials:
    if mechanism == "external":
        return ExternalCredentials()
    if mechanism != "plain":
        raise ValueError(f"auth={mechanism}; there are plain, external")
    return PlainCredentials(unquote(split.username or "guest"), unquote(split.password or "guest"))


def _tls(options: Mapping[str, str], host: str | None) -> SSLOptions:
    context = ssl.create_default_context(
        cafile=options.get("cafile"), capath=options.get("capath"), cadata=options.get("cadata")
    )
    if "certfile" in options:
        context.load_cert_chain(options["certfile"], options.get("keyfile"))
    if options.get("no_verify_ssl", "0") != "0":
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return SSLOptions(context, host)
