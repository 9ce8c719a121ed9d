"""``antiphon run``: an application's services and its gateway, until a signal says to stop."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import sys
from typing import TYPE_CHECKING, Any

from antiphon.cli import arguments, output, workers
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
    parser.add_argument(
        "--workers",
        metavar="N",
        type=workers.count,
        default=1,
        help="run so many processes, which share the work by keys and the port; one that dies is started again (1)",
    )
    parser.add_argument(workers.MEMBER, type=workers.line_and_port, default=(None, None), help=argparse.SUPPRESS)
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
    if getattr(options, "workers", 1) > 1:
        port = None if options.no_gateway else _port(options)
        code = workers.run_crew(options, port, lambda facts: _announce(facts, options.json))
        output.say("stopped")
        return code
    return asyncio.run(_until_stopped(load(options.app), options))


async def _until_stopped(app: App, options: argparse.Namespace) -> int:
    stopped = _stop_on_signals()
    line, inherited = getattr(options, "member_of", (None, None))
    member = None if line is None else workers.Member(line)
    if member is not None:
        member.stop_with_parent(stopped.set)
    async with app.run_in(options.data, services=_services(options), store=options.store, bus=options.bus) as runtime:
        try:
            if options.no_gateway:
                await _serving(app, options, None, stopped, member)
            else:
                from antiphon.gateway.application import serve

                grace_s, port = options.grace.total_seconds(), _port(options)
                async with serve(
                    app,
                    runtime,
                    host=options.host,
                    port=port,
                    grace_s=grace_s,
                    elsewhere=options.elsewhere,
                    inherited=inherited,
                ) as address:
                    await _serving(app, options, address.url, stopped, member)
        finally:
            await runtime.stop(options.grace.total_seconds())
    if member is None:
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


async def _serving(
    app: App, options: argparse.Namespace, url: str | None, stopped: asyncio.Event, member: workers.Member | None
) -> None:
    """Say what runs where, then wait for a signal."""
    facts = _facts(app, options, url)
    if member is None:
        _announce(facts, options.json)
    else:
        member.is_ready(facts)
    await stopped.wait()
    if member is None:
        output.say("draining")


def _facts(app: App, options: argparse.Namespace, url: str | None) -> dict[str, Any]:
    here = _services(options)
    services = [*app.services, *app.channels] if here is None else here
    from antiphon.broker.naming import shown  # `--help` needs it not

    store, bus = (
        None if each is None else shown(each) for each in (options.store or app.store, options.bus or app.bus)
    )
    data = os.path.realpath(options.data)
    facts = {"ready": True, "app": app.name, "services": services, "url": url, "data": data, "store": store, "bus": bus}
    return {**facts, "pid": os.getpid()}


def _announce(facts: dict[str, Any], as_json: bool) -> None:
    bus = f", bus at {facts['bus']}" if facts["bus"] else ""
    where = f"stores at {facts['store']}" if facts["store"] else f"data in {facts['data']}"
    output.say(f"{facts['app']}: {', '.join(facts['services']) or 'no services'}, {where}{bus}")
    if facts["url"] is not None:
        output.say(f"gateway {facts['url']}")
        output.say(f"docs {facts['url']}/docs")
    if "workers" in facts:
        output.say(f"workers {', '.join(map(str, facts['workers']))}")
    output.say(f"ready, process {facts['pid']}; Ctrl-C or SIGTERM drains")
    if as_json:
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
