"""``antiphon trace``: from any event, what caused it, what it caused, every attempt, and why it ended so."""

from __future__ import annotations

import argparse
import asyncio
from typing import TYPE_CHECKING

from antiphon.cli import arguments, output
from antiphon.cli.exits import Exit
from antiphon.cli.stores import open_stores

if TYPE_CHECKING:
    from antiphon.model.views import DeliveryView, Trace, TraceNode


def trace(parser: argparse.ArgumentParser) -> None:
    """Give *parser* the arguments of ``trace``."""
    parser.add_argument("id", metavar="ID", help="the id of an event, or the beginning of one")
    arguments.add_data(parser)
    arguments.add_json(parser)
    parser.set_defaults(run=_trace)


def _trace(options: argparse.Namespace) -> int:
    found = asyncio.run(_read(options))
    if options.json:
        output.emit(found)
    else:
        _print(found)
    return Exit.OK


async def _read(options: argparse.Namespace) -> Trace:
    from antiphon.store.sqlite.desk import trace as trace_over

    async with open_stores(options.data) as desks:
        return await trace_over(desks, options.id)


def _print(found: Trace) -> None:
    start_ms = min(node.event.time_ms for node in found.nodes)
    print(f"correlation {found.correlation_id}, began {output.moment(start_ms)}")
    for node in found.nodes:
        indent = "  " * node.depth
        event = node.event
        key = "" if event.key is None else f" [{output.plain(event.key)}]"
        after = _after(event.time_ms, start_ms)
        print(f"{indent}{after} {output.plain(event.type)}{key} by {event.service}  {event.id}")
        if event.raw is not None:
            print(f"{indent}  undecodable: {output.plain(event.raw.why)}")
        for delivery in node.deliveries:
            _print_delivery(delivery, start_ms, f"{indent}  ")
        if not node.deliveries and _ends_here(node, found):
            print(f"{indent}  nobody handles it")
    if found.truncated:
        output.say("there are more events than are shown")


def _print_delivery(delivery: DeliveryView, start_ms: int, indent: str) -> None:
    times = "attempt" if delivery.attempts == 1 else "attempts"
    facts = [f"{delivery.attempts} {times}", _after(delivery.updated_ms, start_ms)]
    if delivery.waits_for:
        facts.append(f"waits for {delivery.waits_for}")
    if delivery.due_ms is not None:
        facts.append(f"due {output.moment(delivery.due_ms)}")
    if delivery.reason:
        facts.append(output.plain(delivery.reason))
    if delivery.archived:
        facts.append(f"archived: {output.plain(delivery.archived)}")
    print(f"{indent}-> {delivery.handler} {delivery.status}: {', '.join(facts)}")
    outcomes = [attempt.outcome for attempt in delivery.history]
    for attempt in delivery.history if outcomes != ["completed"] else ():
        error = f": {attempt.error_type}: {output.shortened(attempt.message)}" if attempt.error_type else ""
        line = f"{_after(attempt.at_ms, start_ms)} attempt {attempt.number} {attempt.outcome}{error}"
        print(f"{indent}     {output.plain(line)}")


def _ends_here(node: TraceNode, found: Trace) -> bool:
    return all(other.event.causation_id != node.event.id for other in found.nodes)


def _after(ms: int, start_ms: int) -> str:
    return f"+{(ms - start_ms) / 1000:.3f}s"
