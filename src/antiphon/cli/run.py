"""``antiphon run``: an application's services and its gateway, until a signal says to stop."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import sys
from typing import TYPE_CHECKING

from antiphon.cli import arguments, output
from antiphon.cli.exits import Exit
from antiphon.cli.loading import load

if TYPE_CHECKING:
    from antiphon.app import App

GATEWAY = "gateway"
ELSEWHERE = "ANTIPHON_ELSEWHERE"
DEFAULT_PORT = 8000
LEVELS = ("debug", "info", "warning", "error")


def run(parser: argparse.ArgumentParser) -> None:
    """Give *parser* the arguments of ``run``."""
    arguments.add_app(parser)
    add_running(parser)
    parser.epilog = (
        "SIGTERM or Ctrl-C drains: handlers end or are released, outboxes empty. A second one ends at once; "
        "nothing is lost by it."
    )
    parser.set_defaults(run=_run)


def add_running(parser: argparse.ArgumentParser) -> None:
    """Give *parser* what ``run`` and ``dev`` have in common."""
    arguments.add_stores(parser)
    arguments.add_bus(parser)
    parser.add_argument("--host", default="127.0.0.1", help="the gateway's address (default: 127.0.0.1)")
    parser.add_argument("--port", metavar="P", type=int, help="its port (default: 8000; with --services any free one)")
    parser.add_argument(
        "--services",
        metavar="A,B",
        type=arguments.names,
        help=f"run these only, beside other processes on the same data; {GATEWAY!r}: only the gateway",
    )
    parser.add_argument(
        "--elsewhere",
        metavar="NAME=URL,...",
        type=arguments.addresses,
        default=os.environ.get(ELSEWHERE) or None,
        help=f"where other machines serve which services, for the gateway to pass requests on (default: ${ELSEWHERE})",
    )
    parser.add_argument("--no-gateway", action="store_true", help="serve no HTTP")
    parser.add_argument("--grace", metavar="SPAN", type=arguments.span, default="10s", help="for draining (10s)")
    parser.add_argument("--log-level", choices=LEVELS, default="info", help="what is logged on stderr (info)")
    arguments.add_json(parser, "one JSON object when it is ready")


def _run(options: argparse.Namespace) -> int:
    logging.basicConfig(
        stream=sys.stderr,
        level=options.log_level.upper(),
        format="%(asctime)s %(levelname)-7s %(name)s: %(message)s",
    )
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it tells of every request that is passed on
    return asyncio.run(_until_stopped(load(options.app), options))


async def _until_stopped(app: App, options: argparse.Namespace) -> int:
    stopped = _stop_on_signals()
    async with app.run_in(options.data, services=_services(options), store=options.store, bus=options.bus) as runtime:
        try:
            if options.no_gateway:
                await _serving(app, options, None, stopped)
            else:
                from antiphon.gateway.application import serve

                grace_s, port = options.grace.total_seconds(), _port(options)
                async with serve(
                    app, runtime, host=options.host, port=port, grace_s=grace_s, elsewhere=options.elsewhere
                ) as address:
                    await _serving(app, options, address.url, stopped)
        finally:
            await runtime.stop(options.grace.total_seconds())
    output.say("stopped")
    return Exit.OK


def _services(options: argparse.Namespace) -> list[str] | None:
    """The services to run here; None: all. The gateway is none of them."""
    if options.services is None:
        return None
    return [name for name in options.services if name != GATEWAY]


def _port(options: argparse.Namespace) -> int:
    """The gateway's port. Services alone are reached through the gateway of another process: any will do."""
    if options.port is not None:
        return int(options.port)
    is_public = not options.services or GATEWAY in options.services
    return DEFAULT_PORT if is_public else 0


async def _serving(app: App, options: argparse.Namespace, url: str | None, stopped: asyncio.Event) -> None:
    """Say what runs where, then wait for a signal."""
    _announce(app, options, url)
    await stopped.wait()
    output.say("draining")


def _announce(app: App, options: argparse.Namespace, url: str | None) -> None:
    here = _services(options)
    services = [*app.services, *app.channels] if here is None else here
    data = os.path.realpath(options.data)
    output.say(f"{app.name}: {', '.join(services) or 'no services'}, data in {data}")
    if url is not None:
        output.say(f"gateway {url}")
        output.say(f"docs {url}/docs")
    output.say(f"ready, process {os.getpid()}; Ctrl-C or SIGTERM drains")
    if options.json:
        facts = {"ready": True, "app": app.name, "services": services, "url": url, "data": data, "pid": os.getpid()}
        output.emit(facts)


def _stop_on_signals() -> asyncio.Event:
    """Set by the first SIGTERM or SIGINT. The second ends the process where it stands."""
    stopped = asyncio.Event()

    def stop(number: int) -> None:
        if stopped.is_set():
            os._exit(128 + number)
        stopped.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop, number)
    return stopped
