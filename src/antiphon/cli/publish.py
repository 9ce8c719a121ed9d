"""``antiphon publish``: one event from outside, appended to the log of the service that publishes it."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from antiphon.cli import arguments, output
from antiphon.cli.exits import CommandError, Exit
from antiphon.cli.loading import load

if TYPE_CHECKING:
    from antiphon.app import App
    from antiphon.model.envelope import Envelope
    from antiphon.model.events import EventType
    from antiphon.store.engines import Engine


def publish(parser: argparse.ArgumentParser) -> None:
    """Give *parser* the arguments of ``publish``."""
    arguments.add_app(parser)
    parser.add_argument("type", metavar="TYPE", help="the name of the event type")
    add_event_data(parser)
    parser.add_argument("--service", metavar="NAME", help="who publishes it (default: who declares that it does)")
    arguments.add_stores(parser)
    arguments.add_json(parser)
    parser.epilog = "The event is checked against its class; its id is printed when it is durable."
    parser.set_defaults(run=_publish)


def _publish(options: argparse.Namespace) -> int:
    from antiphon.model.jsontext import strict_json
    from antiphon.store.engines import engine_at

    app = load(options.app)
    event_type = _event_type(app, options.type)
    service = app.producer_of(event_type) if options.service is None else _service(app, options.service)
    data = read_data(options)
    strict_json(data, limit=app.max_payload, type_name=event_type.name)
    event = event_type.decode(data, event_type.version)
    name = service if app.own_stores else app.name
    path = options.data / f"{name}.db"
    if options.store is None and not path.exists():
        output.say(f"{path} is made now: the application has not run there yet")
    envelope = asyncio.run(_append(app, service, engine_at(options.store, options.data), name, event))
    if options.json:
        output.emit({"id": envelope.id, "type": envelope.type, "key": envelope.key, "service": envelope.service})
    else:
        print(envelope.id)
    return Exit.OK


async def _append(app: App, service: str, engine: Engine, name: str, event: object) -> Envelope:
    """Append *event* durably; the bell then wakes the processes that run its handlers."""
    from antiphon.ports import INTERNAL, PUBLISHED
    from antiphon.runtime.clock import SystemClock
    from antiphon.runtime.transaction import Publisher

    clock = SystemClock()
    envelope, event_type = Publisher(service, clock, None, service, app.max_payload).envelope(event, None, None)
    store = engine.store(name, clock=clock, owner=f"{os.getpid()}-{clock.new_id()[-12:]}", tables={})
    await store.open()
    try:
        async with store.unit() as unit:
            await unit.append([(envelope, INTERNAL if event_type.domain else PUBLISHED)])
    finally:
        await store.close()
    return envelope


def _event_type(app: App, name: str) -> EventType:
    found = app.event_types.get(name)
    if found is None:
        known = [each for each in app.event_types if not each.startswith("antiphon.")]
        raise CommandError(
            f"no service of it handles or publishes {name!r}",
            code=Exit.FINDINGS,
            where=f"app {app.name!r}",
            mend=f"Its event types are: {', '.join(sorted(known)) or 'none'}",
        )
    return found


def _service(app: App, name: str) -> str:
    if name not in app.services:
        raise CommandError(
            f"there is no service {name!r}",
            code=Exit.USAGE,
            where=f"app {app.name!r}",
            mend=f"Its services are: {', '.join(app.services)}",
        )
    return name


def add_event_data(parser: argparse.ArgumentParser) -> None:
    """The event's JSON, for `read_data`."""
    data = parser.add_mutually_exclusive_group()
    data.add_argument("--file", metavar="FILE", default="-", help="a file with the event's JSON (default: stdin)")
    data.add_argument("--data-json", metavar="TEXT", help="the event's JSON itself")


def read_data(options: argparse.Namespace) -> bytes:
    """The bytes that `add_event_data` lets the user name. Raises CommandError if there is no such file."""
    if options.data_json is not None:
        return str(options.data_json).encode("utf-8", "surrogateescape")
    file = str(options.file)
    if file == "-":
        if sys.stdin.isatty():
            output.say("reading the event's JSON from the terminal; Ctrl-D ends it")
        return sys.stdin.buffer.read()
    try:
        return Path(file).read_bytes()
    except OSError as error:
        raise CommandError(
            f"cannot be read ({error.strerror})", code=Exit.USAGE, where=file, mend="Name a file with the event's JSON"
        ) from error
