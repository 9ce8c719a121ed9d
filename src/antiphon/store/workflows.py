"""Runs, journals and inboxes as rows: each function is one read or write of a transaction that its caller has."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, NamedTuple

from antiphon.errors import LeaseLost
from antiphon.model.envelope import Envelope
from antiphon.model.workflows import Address, Kind, Mark, Record, Run, RunState, RunView, shown
from antiphon.ports import Unit

#: Runs a named block inside or outside a transaction: its name, then parameters.
Fetch = Callable[..., Awaitable[list[Any]]]


class Arrival(NamedTuple):
    """An event or signal that has arrived."""

    seq: int
    id: str
    type: str
    version: int
    data: bytes
    causation_id: str | None


async def load_run(fetch: Fetch, run_id: str, workflow: str) -> Run | None:
    """The run, or None."""
    rows = await fetch("run_by_id", run_id, workflow)
    return as_run(rows[0]) if rows else None


def as_run(row: Sequence[Any]) -> Run:
    """A row of ``run_by_id`` as a value."""
    values = list(row)
    values[5] = RunState(values[5])
    return Run(*values)


async def load_journal(fetch: Fetch, nr: int) -> list[Record]:
    """What the run has done so far."""
    return [Record(row[0], Kind(row[1]), row[2], Mark(row[3]), *row[4:]) for row in await fetch("read_journal", nr)]


async def live_run(fetch: Fetch, workflow: str, key: str) -> str | None:
    """The id of the live run of *key*."""
    rows = await fetch("live_run", workflow, key)
    return rows[0][0] if rows else None


class Known(NamedTuple):
    """What there is before a run begins: whether it has begun already, the id of the live run of its key, and the
    position in the log of the event that begins it."""

    has_begun: bool
    live: str | None
    start_seq: int


async def known(fetch: Fetch, workflow: str, key: str, run_id: str, event_id: str) -> Known:
    """What there is of a run *run_id* of *key* that the event *event_id* begins."""
    found = {
        what: (seq, known_id) for seq, known_id, what in await fetch("known_runs", workflow, key, run_id, event_id)
    }
    return Known(0 in found, found.get(1, (0, None))[1], found.get(2, (0, None))[0])


async def address_of(
    fetch: Fetch, workflow: str, *, key: str | None = None, run_id: str | None = None
) -> tuple[str, Address] | None:
    """The id of the live run of *key*, or of the run *run_id*, and where its internal events go."""
    if run_id is None:
        run_id = await live_run(fetch, workflow, key or "")
    run = await load_run(fetch, run_id, workflow) if run_id is not None else None
    return None if run is None else (run.id, (run.workflow, run.order_key, run.correlation_id))


async def newest_run(fetch: Fetch, workflow: str, key: str) -> RunView | None:
    """The run of *key* that began last, with its journal."""
    rows = await fetch("newest_run", workflow, key)
    run = await load_run(fetch, rows[0][0], workflow) if rows else None
    return None if run is None else shown(run, await load_journal(fetch, run.nr))


async def awaiting_runs(fetch: Fetch, workflow: str, event: Envelope) -> list[tuple[str, Address]]:
    """The ids of the live runs that *event* may be awaited by, and where their internal events go."""
    found = await fetch("awaiting_runs", workflow, event.key, event.correlation_id)
    return [(row[0], (workflow, row[1], row[2])) for row in found]


def _new_row(run: Run) -> tuple[Any, ...]:
    """The columns of a run that has no row yet."""
    head = (run.id, run.workflow, run.key, run.order_key, run.version, run.state._value_, run.correlation_id)
    start = (run.parent, run.start_seq, run.start_type, run.start_version, run.start_data)
    rest = (run.shape, run.waiting, run.due_ms, run.user_state, run.result, run.error, run.cancelled)
    return (*head, *start, *rest, run.started_ms, run.updated_ms)


async def save_ended(unit: Unit, ended: list[tuple[Run, list[Record]]]) -> None:
    """Write runs that ended in their first turns, with their journals."""
    numbers = await unit.fetch_all(unit.query("next_runs"), (len(ended),))
    for (number,), (run, _) in zip(numbers, ended, strict=True):
        run.nr = number
    await unit.execute_many(unit.query("insert_ended"), [(run.nr, *_new_row(run)) for run, _ in ended])
    await unit.execute_many(
        unit.query("put_record"), [_row(run.nr, record) for run, records in ended for record in records]
    )


async def save_run(unit: Unit, run: Run) -> None:
    """Write the run's row. Raises LeaseLost, and changes nothing, if somebody else has written it since."""
    if run.nr == 0:
        rows = await unit.fetch_all(unit.query("insert_run"), _new_row(run))
        run.nr = rows[0][0]
        run.rev = 1
        return
    changed = await unit.execute(
        unit.query("update_run"),
        (
            run.state.value,
            run.shape,
            run.waiting,
            run.due_ms,
            run.user_state,
            run.result,
            run.error,
            run.cancelled,
            run.updated_ms,
            run.nr,
            run.rev,
        ),
    )
    if changed != 1:
        raise LeaseLost("another worker has moved the run on", where=f"{run.workflow} {run.id}")
    run.rev += 1


async def put_records(unit: Unit, nr: int, records: Iterable[Record]) -> None:
    """Write records of a run's journal."""
    await unit.execute_many(unit.query("put_record"), [_row(nr, each) for each in records])


def _row(nr: int, record: Record) -> tuple[Any, ...]:
    return (
        nr,
        record.position,
        record.kind._value_,
        record.name,
        record.mark._value_,
        record.nr,
        record.attempts,
        record.first_ms,
        record.due_ms,
        record.timer,
        record.result,
        record.error_type,
        record.error,
        record.at_ms,
    )


async def put_arrival(
    unit: Unit, workflow: str, event: Envelope, type_: str, correlation_id: str, data: bytes, now_ms: int
) -> None:
    """Keep what *event* brings, as *type_*, for the runs of *correlation_id* or of its key.

    Of a reply it is kept which request it answers, even if something else has made the other side give it.
    """
    key = event.key if type_ == event.type else None
    because = event.request_id or event.causation_id
    await unit.execute(
        unit.query("put_arrival"),
        (workflow, event.id, type_, event.version, key, correlation_id, because, data, now_ms),
    )


async def arrivals(fetch: Fetch, run: Run, correlation_id: str, types: Sequence[str]) -> list[Arrival]:
    """What has arrived of *types* that the run may take, in order."""
    found = await fetch("arrivals", run.workflow, correlation_id, run.key, run.start_seq, json.dumps(types))
    return [Arrival(*row) for row in found]
