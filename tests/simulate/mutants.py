"""Deliberate mistakes in the engine, each of which the simulator has to find. ``python -m tests.simulate.mutants``.

A mutant is a patch that is in force while its worlds run, and nowhere else. It counts as found when a promise of the
engine (G1 to G9) is seen to be broken; what an application's own invariants say, or the log, does not count.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import msgspec
import pytest

from antiphon.app import App
from antiphon.errors import StoreError
from antiphon.gateway import idempotency
from antiphon.model.delivery import DeadLetter, RetryAt, Status
from antiphon.model.envelope import Envelope
from antiphon.model.workflows import Kind, Mark, Record
from antiphon.policy.undoing import to_undo
from antiphon.ports import PUBLISHED, RECEIVED, Lease, LoggedEvent, Settled
from antiphon.runtime import effects
from antiphon.runtime.ahead import Ahead, NotPlain
from antiphon.runtime.attempt import Attempt, Judge
from antiphon.runtime.batch import Batch, BatchRunner
from antiphon.runtime.inlet import Inlet
from antiphon.runtime.outlet import Outlet
from antiphon.runtime.signals import Solo
from antiphon.runtime.transaction import Transaction
from antiphon.runtime.workflow import attempting, undoing
from antiphon.runtime.workflow.turn import Turn
from antiphon.simulate import templates, world
from antiphon.simulate.faults import FaultMix
from antiphon.simulate.invariants import Violation
from antiphon.simulate.loop import SimLoop
from antiphon.simulate.world import World
from antiphon.store import answers, leases, redrives, timers
from antiphon.store.base import SqlStore
from antiphon.store.bus import LogBus
from antiphon.store.sqlite import connection, migrations, queries, unit, writer
from antiphon.store.sqlite.queries import query
from antiphon.store.sqlite.unit import SqliteUnit
from tests.runtime.holding import hold_statements
from tests.simulate import apps

#: A mutant that is not found by then has survived.
MOST_SEEDS = 1_000
#: Virtual seconds after the last fault in which a world of these applications has long come to rest.
_REST_WITHIN_S = 300.0
#: One that turns in circles is, too.
_MOST_STEPS = 150_000

#: So many turns of the loop a commit comes too late.
_TURNS = 5

Patch = pytest.MonkeyPatch


@dataclass(frozen=True)
class Trial:
    """What a mutant is looked for in: an application of ``apps``, what comes in, and faults in a thousand points."""

    app: str
    events: int
    faults: tuple[tuple[str, float], ...]
    rest_s: float = _REST_WITHIN_S

    @property
    def mix(self) -> FaultMix:
        """The faults."""
        return FaultMix(dict(self.faults))


def trial(app: str = "shop", events: int = 12, rest_s: float = _REST_WITHIN_S, **faults: float) -> Trial:
    """A trial; *rest_s* are the virtual seconds after the last fault in which its worlds have long come to rest."""
    return Trial(app, events, tuple(sorted(faults.items())), rest_s)


@dataclass(frozen=True)
class Mutant:
    """A mistake: what it is, in words, where it is looked for, and the patch that makes it."""

    name: str
    says: str
    trial: Trial
    breaks: Callable[[Patch], None]


class Finding(msgspec.Struct, frozen=True):
    """How a mutant was found: after how many seeds (from 0 on), by which promises; None if it was not."""

    name: str
    says: str
    seeds: int
    promises: list[str]
    text: str
    cpu_seconds: float

    @property
    def found(self) -> bool:
        """Whether it was."""
        return bool(self.promises)


MUTANTS: dict[str, Mutant] = {}


def mutant(says: str, where: Trial) -> Callable[[Callable[[Patch], None]], Callable[[Patch], None]]:
    """Declare a mutant."""

    def declare(breaks: Callable[[Patch], None]) -> Callable[[Patch], None]:
        MUTANTS[breaks.__name__] = Mutant(breaks.__name__, says, where, breaks)
        return breaks

    return declare


# ---------------------------------------------------------------------- how they are looked for


@cache
def app_of(name: str) -> App:
    """An application, made once."""
    made: App = apps.APPS[name]()
    return made


def violations_of(where: Trial, seed: int) -> list[Violation]:
    """The promises that one world breaks."""
    world._SETTLES_WITHIN_S = where.rest_s
    run = World(app_of(where.app), seed, events=where.events, faults=where.mix).run()
    return [violation for violation in run.violations if violation.breaks_a_promise]


@contextmanager
def bounded() -> Iterator[Patch]:
    """Worlds that do not come to rest are given up soon."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(world, "_SETTLES_WITHIN_S", _REST_WITHIN_S)
        patch.setattr(world, "SimLoop", partial(SimLoop, most_steps=_MOST_STEPS))
        patch.setattr(templates, "_MADE", {})
        yield patch


def hunt(sought: Mutant, most: int = MOST_SEEDS) -> Finding:
    """Look for a mutant, seed by seed, until it is found."""
    began = time.process_time()
    with bounded() as patch:
        sought.breaks(patch)
        for seed in range(most):
            found = violations_of(sought.trial, seed)
            if found:
                promises = list(dict.fromkeys(violation.name for violation in found))
                spent = time.process_time() - began
                return Finding(sought.name, sought.says, seed + 1, promises, found[0].text, round(spent, 2))
    return Finding(sought.name, sought.says, most, [], "", round(time.process_time() - began, 2))


@cache
def control(where: Trial, seed: int) -> tuple[Violation, ...]:
    """What the engine as it is breaks in a world in which a mutant was found: nothing."""
    with bounded():
        return tuple(violations_of(where, seed))


# ---------------------------------------------------------------------- what patches share


def change_sql(patch: Patch, block: str, found: str, put: str) -> None:
    """Put something else into a block of SQL."""
    sql = query(block)
    assert found in sql, f"{block} has no {found!r}"
    patch.setitem(queries.blocks(), block, sql.replace(found, put))
    for name in ("append", "append_plain"):
        if name == block:
            patch.setattr(unit, f"_{name.upper()}", query(name))


def is_timer_loop() -> bool:
    """Whether a store's timers are being looked after."""
    task = asyncio.current_task()
    return task is not None and task.get_name().startswith("timers of ")


def change_file(patch: Patch, name: str, found: str, put: str) -> None:
    """Put something else into a file of SQL."""
    sql, text = queries.text(name), queries.text
    assert found in sql, f"{name} has no {found!r}"
    patch.setattr(migrations, "text", lambda asked: sql.replace(found, put) if asked == name else text(asked))


def change_views(patch: Patch, found: str, put: str) -> None:
    """Put something else into the event tables."""
    script = migrations.own_views()
    assert found in script, f"the views have no {found!r}"
    patch.setattr(migrations, "own_views", lambda: script.replace(found, put))


_CRASHES = trial(events=10, crash=4.0)
_FAILURES = trial(events=10, handler=40.0)
_BUS = trial(events=10, drop=20.0, duplicate=20.0)
_PROCESSES = trial("processes", 10)
_FAILING_PROCESSES = trial("processes", 10, rest_s=7_200.0, handler=20.0)
_LETTERS = trial("letters", 10, crash=8.0)
_SLOW = trial("slow", 6, rest_s=3_000.0, handler=60.0)


# ---------------------------------------------------------------------- G1: what is published is there for ever


@mutant("a commit is said to be durable before SQLite has it", _CRASHES)
def acknowledged_before_commit(patch: Patch) -> None:
    commit, finish = writer.Writer._commit, writer.Writer._finish

    async def acknowledge(self: writer.Writer, group: writer.Group) -> None:
        if is_timer_loop():  # which would fire again what it sees to be due, for ever
            await finish(self, group)
            return
        if not group.durable.done():
            group.durable.set_result(None)
        self._chore(self._commit_unless_joined(group))

    async def commit_later(self: writer.Writer, group: writer.Group) -> None:
        for _ in range(_TURNS):
            await asyncio.sleep(0)
        group.durable = asyncio.get_running_loop().create_future()
        await commit(self, group)

    patch.setattr(writer.Writer, "_finish", acknowledge)
    patch.setattr(writer.Writer, "_commit", commit_later)


@mutant("commits are not synced: the power takes them away", trial(events=10, power=2.0))
def acknowledged_before_sync(patch: Patch) -> None:
    configure = connection._configure

    def without_sync(opened: Any, read_only: bool) -> None:
        configure(opened, read_only)
        opened.execute("PRAGMA synchronous = OFF")

    patch.setattr(connection, "_configure", without_sync)


@mutant("an event that comes again replaces the one that is there", _BUS)
def facts_change(patch: Patch) -> None:
    for block in ("append", "append_plain"):
        change_sql(patch, block, "DO NOTHING", "DO UPDATE SET data = excluded.data")


# ---------------------------------------------------------------------- G2: effects and settling are one


@mutant("deliveries are settled in a transaction before that of their effects", _CRASHES)
def settled_before_commit(patch: Patch) -> None:
    run = BatchRunner.run

    async def settle_first(self: BatchRunner, lease: Lease, attempts: Sequence[Attempt]) -> Batch:
        upto = max([attempt.event.seq for attempt in attempts if attempt.fresh], default=lease.seq)
        async with self._store.unit() as early:
            await early.settle(lease, [], upto)
        return await run(self, lease, attempts)

    patch.setattr(BatchRunner, "run", settle_first)


@mutant("the cursor moves past an event that has to be tried again", _FAILURES)
def cursor_past_a_retry(patch: Patch) -> None:
    settle_row = SqliteUnit._settle_row

    async def forget_fresh(self: SqliteUnit, handler_id: int, result: Settled, now: int) -> None:
        if not (result.fresh and isinstance(result.verdict, RetryAt)):
            await settle_row(self, handler_id, result, now)

    patch.setattr(SqliteUnit, "_settle_row", forget_fresh)


@mutant("what a handler wrote before it raised is kept", _FAILURES)
def failed_writes_kept(patch: Patch) -> None:
    async def keep(self: Transaction, error: BaseException) -> None:
        self.outgoing.clear()
        manager, self._manager = self._manager, None
        self.end()
        if manager is not None:
            await manager.__aexit__(None, None, None)

    patch.setattr(Transaction, "abandon", keep)


@mutant("what a handler published before it raised is published", _FAILURES)
def rolled_back_event_published(patch: Patch) -> None:
    fail = BatchRunner._fail

    async def publish_all_the_same(
        self: BatchRunner, tx: Transaction, attempt: Attempt, error: Exception, batch: Batch
    ) -> None:
        batch.outgoing += tx.outgoing
        await fail(self, tx, attempt, error, batch)

    patch.setattr(BatchRunner, "_fail", publish_all_the_same)


@mutant("a batch without savepoints that did not go as expected is kept as far as it came", _FAILURES)
def surprise_kept(patch: Patch) -> None:
    hold_statements(patch)
    handle_all = Ahead.handle_all

    async def settle_all_the_same(self: Ahead, attempts: Sequence[Attempt]) -> None:
        try:
            await handle_all(self, attempts)
        except NotPlain:
            await self._unit.send(last=True)

    patch.setattr(Ahead, "handle_all", settle_all_the_same)


# ---------------------------------------------------------------------- G3: each event takes effect once


@mutant("a lease has no fence: who has lost it settles all the same", trial(events=12, stall=4.0))
def lease_without_fence(patch: Patch) -> None:
    change_sql(patch, "move_cursor", "AND epoch = ?6", "AND ?6 >= 0")


@mutant("a lease changes hands under the same token", _CRASHES)
def same_token_for_the_next(patch: Patch) -> None:
    change_sql(patch, "take_lease", "epoch + 1", "epoch")


@mutant("a lease is taken from a worker that lives and has renewed it", trial(events=6))
def lease_taken_from_the_living(patch: Patch) -> None:
    async def always(*_: Any) -> bool:
        return True

    patch.setattr(leases, "_is_free", always)


@mutant("a split leaves retries and what is parked with the first partition", _FAILURES)
def split_forgets_deliveries(patch: Patch) -> None:
    patch.setattr(leases, "_MOVED", ("antiphon_attempts", "antiphon_redrive_items"))


@mutant("a partition that is split off begins at the start of the log", trial(events=12))
def split_forgets_the_cursor(patch: Patch) -> None:
    change_sql(patch, "put_partition", "first_id, id), seq, service, seq,", "first_id, id), seq, service, 0 * seq,")


@mutant("a partition that is split off begins at the end of the log", trial(events=30, stall=4.0))
def split_passes_over(patch: Patch) -> None:
    end = "first_id, id), seq, service, (SELECT coalesce(max(l.seq), 0) FROM antiphon_log AS l),"
    change_sql(patch, "put_partition", "first_id, id), seq, service, seq,", end)


@mutant("a worker reads the events of other partitions too", trial(events=12))
def every_partition_reads_all(patch: Patch) -> None:
    async def all_of_them(self: SqlStore, lease: Lease, types: Sequence[str], limit: int) -> list[LoggedEvent]:
        return await self.read_owed(lease.handler_id, types, lease.seq, limit)

    patch.setattr(SqlStore, "read_fresh", all_of_them)


@mutant("a split makes a partition too few", trial(events=12))
def split_makes_too_few(patch: Patch) -> None:
    patch.setattr(leases, "range", lambda start, stop, step: range(start + step, stop, step), raising=False)


@mutant("what has not been seen of a partition is taken for seen", trial(events=12))
def seen_too_far(patch: Patch) -> None:
    read_fresh = SqlStore.read_fresh

    async def too_far(self: SqlStore, lease: Lease, types: Sequence[str], limit: int) -> list[LoggedEvent]:
        events = await read_fresh(self, lease, types, limit)
        if events and lease.parts > 1:
            lease.seen_seq = self.reached()
        return events

    patch.setattr(SqlStore, "read_fresh", too_far)


@mutant("an inlet's position is moved before its events are kept", trial(events=10, crash=6.0))
def received_before_kept(patch: Patch) -> None:
    move = Inlet._move

    async def move_first(self: Inlet, after: dict[str, int]) -> bool:
        events = await self._bus.receive(self._service, after, 1)
        if events:
            async with self._store.unit() as early:
                for type_ in after:
                    await early.move_position(f"read:{type_}", events[-1].seq)
        return await move(self, after)

    patch.setattr(Inlet, "_move", move_first)


@mutant("the inbox is forgotten: an event that arrives again is kept again", _BUS)
def inbox_forgotten(patch: Patch) -> None:
    change_file(patch, "schema.sql", "CREATE UNIQUE INDEX antiphon_log_id", "CREATE INDEX antiphon_log_id")
    for block in ("append", "append_plain"):
        change_sql(patch, block, "ON CONFLICT (id) DO NOTHING", "")


@mutant("an outlet takes events for sent although sending failed", _BUS)
def sent_before_confirmed(patch: Patch) -> None:
    move = Outlet.move

    async def go_on(self: Outlet) -> bool:
        events = await self._store.read_log(self._position, 256)
        try:
            return await move(self)
        except StoreError:
            self._position = events[-1].seq
            return True

    patch.setattr(Outlet, "move", go_on)


@mutant("the bus notes how far it has taken a log before it has the events", _CRASHES)
def noted_before_taken(patch: Patch) -> None:
    async def note_first(self: LogBus, sender: str, after_seq: int, upto_seq: int, events: Sequence[Any]) -> int:
        now, name = self.store.clock.now_ms(), f"outlet:{sender}"
        async with self.store.unit() as early:
            await early.execute(query("put_position"), (name, now))
            if not await early.execute(query("advance_position"), (upto_seq, now, name, after_seq)):
                return int(dict(await early.fetch_all(query("positions")))[name])
        async with self.store.unit() as late:
            await late.append([(envelope, PUBLISHED) for envelope in events])
        return upto_seq

    patch.setattr(LogBus, "send", note_first)


@mutant("a bus takes a batch from wherever its sender believes it is", trial(events=20, delay=40.0))
def bus_goes_back(patch: Patch) -> None:
    change_sql(patch, "advance_position", "AND seq <= ?", "AND ? >= 0")


@mutant("the gateway forgets which requests it has answered", trial(events=10, drop=30.0, duplicate=20.0))
def idempotency_key_forgotten(patch: Patch) -> None:
    async def keep_nothing(*_: Any) -> bool:
        return True

    patch.setattr(idempotency, "keep_answer", keep_nothing)


@mutant("the gateway keeps its answer in a transaction after that of the route", trial(events=10, crash=4.0, drop=10.0))
def answer_kept_afterwards(patch: Patch) -> None:
    keep_answer = answers.keep_answer
    late: list[Any] = []

    async def keep_later(unit_: Any, *answer: Any) -> bool:
        late.append(answer)
        return True

    answer_route = idempotency.Idempotency.answer

    async def answer(self: Any, store: SqlStore, route: str, request: Any, perform: Any) -> Any:
        response = await answer_route(self, store, route, request, perform)
        waiting = [each for each in late if each[0] == route]
        late.clear()
        for each in waiting:
            async with store.unit() as afterwards:
                await keep_answer(afterwards, *each)
        return response

    patch.setattr(idempotency, "keep_answer", keep_later)
    patch.setattr(idempotency.Idempotency, "answer", answer)


@mutant("a handler that undoes another's work is not settled the first time: it undoes twice", trial(events=10))
def compensation_twice(patch: Patch) -> None:
    succeed = BatchRunner._succeed

    def once_more(self: BatchRunner, tx: Transaction, attempt: Attempt, batch: Batch) -> None:
        if self._judge._spec.compensates is None or not attempt.fresh:
            succeed(self, tx, attempt, batch)
            return
        batch.outgoing += tx.outgoing
        tx.end()
        again = RetryAt(self._judge._store.store_ms())
        batch.results.append(Settled(attempt.event, again, True, 1, attempt.first_ms, burns=False))
        batch.upto_seq = attempt.event.seq

    patch.setattr(BatchRunner, "_succeed", once_more)


# ---------------------------------------------------------------------- G4: order by key


@mutant("a failing event does not hold back its key", _FAILURES)
def key_order_dropped(patch: Patch) -> None:
    patch.setattr(BatchRunner, "_waits", staticmethod(lambda *_: False))


@mutant("of a key, the retry that is due first runs first", _FAILURES)
def retries_out_of_order(patch: Patch) -> None:
    for block in ("due_deliveries", "next_due"):
        change_sql(patch, block, "earlier.seq < d.seq", "earlier.seq < 0")
    change_sql(patch, "promote_next", "SELECT min(seq)", "SELECT max(seq)")


# ---------------------------------------------------------------------- G5: bounded, and never dropped


@mutant("an event whose attempts are used up is dropped", _FAILURES)
def dead_letter_dropped(patch: Patch) -> None:
    settle_row = SqliteUnit._settle_row

    async def drop(self: SqliteUnit, handler_id: int, result: Settled, now: int) -> None:
        await settle_row(self, handler_id, result, now)
        if isinstance(result.verdict, DeadLetter):
            await self.execute(query("end_delivery"), (handler_id, result.event.seq))

    patch.setattr(SqliteUnit, "_settle_row", drop)


@mutant("a dead letter does not say why", _FAILURES)
def dead_letter_without_reason(patch: Patch) -> None:
    change_sql(patch, "put_delivery", "reason = excluded.reason", "reason = NULL")
    change_sql(patch, "put_delivery", "VALUES (?, ?, ?, ?, ?, ?, ?, ?,", "VALUES (?, ?, ?, ?, ?, ?, ?, nullif(?, ?8),")


@mutant("attempts are counted from one again after a crash", trial(events=12, handler=80.0, crash=4.0, stall=1.0))
def attempts_forgotten_by_a_crash(patch: Patch) -> None:
    change_sql(patch, "suspect_running", "attempts = max(attempts - 1, 0)", "attempts = 0")
    change_sql(patch, "suspect_due", "suspect = 1", "suspect = 1, attempts = 0")


@mutant("an event is given up after its first attempt", _FAILURES)
def given_up_too_soon(patch: Patch) -> None:
    failed = Judge.failed

    def give_up(self: Judge, attempt: Attempt, error: BaseException) -> Settled:
        settled = failed(self, attempt, error)
        if isinstance(settled.verdict, RetryAt):
            return msgspec.structs.replace(settled, verdict=DeadLetter(Status.FAILED, "enough"))
        return settled

    patch.setattr(Judge, "failed", give_up)


@mutant("a timer stays when it has fired", trial(events=6))
def timer_stays(patch: Patch) -> None:
    end_timer = SqliteUnit.end_timer

    async def put_off(self: SqliteUnit, timer_id: str) -> bool:
        if is_timer_loop():
            later = self._store_ms + 3_600_000
            return await self.execute("UPDATE antiphon_timers SET due_ms = ? WHERE id = ?", (later, timer_id)) == 1
        return await end_timer(self, timer_id)

    patch.setattr(SqliteUnit, "end_timer", put_off)


@mutant("a timer is removed in a transaction before its event is published", trial(events=10, crash=6.0))
def timer_removed_before_it_fired(patch: Patch) -> None:
    async def remove_first(store: SqlStore, occur: Any, limit: int) -> int:
        async with store.unit() as early:
            rows = await early.fetch_all(query("due_timers"), ("store", store.store_ms(), limit))
            for row in rows:
                await early.end_timer(row["id"])
        async with store.unit() as late:
            await late.append([(occur(timers._timer(row))[0], row["origin"]) for row in rows])
        return len(rows)

    patch.setattr(timers, "fire_timers", remove_first)


@mutant("a delayed event comes before its time", trial(events=6))
def timer_early(patch: Patch) -> None:
    change_sql(patch, "due_timers", "due_ms <= ?", "due_ms <= ? + 30000")
    next_timer_ms = timers.next_timer_ms

    async def sooner(store: SqlStore) -> int | None:
        wait = await next_timer_ms(store)
        return None if wait is None else wait - 2_000

    patch.setattr(timers, "next_timer_ms", sooner)


# ---------------------------------------------------------------------- G7: every why is on record


@mutant("an event does not belong to the process of what caused it", trial(events=4))
def process_forgotten(patch: Patch) -> None:
    publisher = Transaction.publish

    def begin_anew(self: Transaction, event: object, **how: Any) -> str:
        id_ = publisher(self, event, **how)
        envelope, origin = self.outgoing[-1]
        self.outgoing[-1] = (msgspec.structs.replace(envelope, correlation_id=id_), origin)
        return id_

    patch.setattr(Transaction, "publish", begin_anew)


@mutant("failed attempts are not written down", _FAILURES)
def attempts_not_on_record(patch: Patch) -> None:
    change_sql(patch, "put_attempt", "VALUES (?, ?, ?, ?, ?, ?, ?, ?)", "SELECT ?, ?, ?, ?, ?, ?, ?, ? WHERE 0")


# ---------------------------------------------------------------------- G8: nobody suffers for another


@mutant("whoever ran when a process died is blamed for it", trial(events=12, crash=8.0))
def bystanders_blamed(patch: Patch) -> None:
    change_sql(patch, "suspect_running", "crashes + suspect", "crashes + 1")


@mutant("a suspect runs beside others", trial(events=60, handler=80.0, crash=4.0))
def suspects_beside_others(patch: Patch) -> None:
    patch.setattr(Solo, "alone", Solo.together)


@mutant("an event that kills its process is tried for ever", trial(events=8, handler=80.0))
def killer_never_set_aside(patch: Patch) -> None:
    patch.setattr(Judge, "crashed", lambda *_: None)


@mutant("the lease of a dead worker is never taken over", _CRASHES)
def lease_never_taken_over(patch: Patch) -> None:
    async def given_back(_: SqlStore, row: Any, owner: str) -> bool:
        return row["owner"] in (None, owner)

    patch.setattr(leases, "_is_free", given_back)


@mutant("the living renew the leases of the dead", trial(events=10, crash=4.0))
def lease_renewed_by_others(patch: Patch) -> None:
    change_sql(patch, "renew_leases", "WHERE owner = ?", "WHERE owner >= '' OR owner = ?")

    async def expired(store: SqlStore, row: Any, owner: str) -> bool:
        return bool(row["owner"] in (None, owner) or row["lease_until_ms"] <= store.store_ms())

    patch.setattr(leases, "_is_free", expired)


# ---------------------------------------------------------------------- replies to commands


@mutant("an inlet drops what is addressed to its service", _PROCESSES)
def reply_lost_on_the_way(patch: Patch) -> None:
    append = SqliteUnit.append

    async def drop_answers(self: SqliteUnit, events: Iterable[tuple[Envelope, int]]) -> None:
        kept = [each for each in events if each[1] != RECEIVED or each[0].request_id is None]
        await append(self, kept)

    patch.setattr(SqliteUnit, "append", drop_answers)


@mutant("what a command's handler publishes is no reply to it", _PROCESSES)
def reply_not_addressed(patch: Patch) -> None:
    patch.setattr(Transaction, "_answers", lambda *_: False)


@mutant("a reply is sent twice", _PROCESSES)
def reply_doubled(patch: Patch) -> None:
    publish = Transaction.publish

    def twice(self: Transaction, event: object, **how: Any) -> str:
        id_ = publish(self, event, **how)
        envelope, origin = self.outgoing[-1]
        if envelope.request_id is not None:
            another = msgspec.structs.replace(envelope, id=self._publisher.clock.new_id())
            self.outgoing.append((another, origin))
        return id_

    patch.setattr(Transaction, "publish", twice)


@mutant("a command that is set aside is not answered", _PROCESSES)
def refusal_forgotten(patch: Patch) -> None:
    patch.setattr(Judge, "_answer", lambda *_: None)


@mutant("a command runs out of time although it was answered", _PROCESSES)
def time_out_of_the_answered(patch: Patch) -> None:
    change_sql(patch, "end_timer", "WHERE id = ?", "WHERE id = ? AND (id NOT LIKE 'timeout:%' OR due_ms < 0)")

    async def remove(store: SqlStore, occur: Any, limit: int) -> int:
        fired = await fire_timers(store, occur, limit)
        async with store.unit() as late:
            await late.execute(
                "DELETE FROM antiphon_timers WHERE id LIKE 'timeout:%' AND due_ms <= ?", (store.store_ms(),)
            )
        return fired

    fire_timers = timers.fire_timers
    patch.setattr(timers, "fire_timers", remove)


# ---------------------------------------------------------------------- G6: workflows


@mutant("a step is recorded as done although it failed", _FAILING_PROCESSES)
def step_recorded_before_it_ran(patch: Patch) -> None:
    def recorded(
        turn: Turn, wanted: attempting.Attempt, position: str, record: Record | None, failure: Exception
    ) -> Record:
        if record is None:
            return turn.close(position, wanted.kind, wanted.name, b"null")
        return turn.change(record, Mark.DONE, result=b"null")

    patch.setattr(attempting, "_failed", recorded)


@mutant("what a step returned is not recorded: the next turn takes the step again", _PROCESSES)
def step_not_recorded(patch: Patch) -> None:
    close = Turn.close

    def forget(self: Turn, position: str, kind: Kind, name: str, result: bytes | None = None) -> Record:
        record = close(self, position, kind, name, result)
        if kind is Kind.STEP:
            del self._unsaved[position]
        return record

    patch.setattr(Turn, "close", forget)


@mutant("a step outside a batch commits before it is recorded", trial("processes", 10, crash=4.0))
def step_committed_before_its_record(patch: Patch) -> None:
    checkpoint = Turn.checkpoint

    async def commit_first(self: Turn, tx: Transaction) -> None:
        unit_ = await tx.unit()
        await unit_.append(tx.mark())
        await tx.checkpoint()
        await checkpoint(self, tx)

    patch.setattr(Turn, "checkpoint", commit_first)


@mutant("a run has no fence: who has lost it records its steps all the same", trial("processes", 14, stall=6.0))
def run_without_fence(patch: Patch) -> None:
    change_sql(patch, "update_run", "AND rev = ?", "AND ? >= 0")


@mutant("the first step of a run is left out when it is undone", _FAILING_PROCESSES)
def undo_skipped(patch: Patch) -> None:
    patch.setattr(undoing, "to_undo", lambda done, undone: to_undo(done, undone)[:-1])


@mutant("a run undoes its steps in the order in which they were done", _PROCESSES)
def undone_forwards(patch: Patch) -> None:
    patch.setattr(undoing, "to_undo", lambda done, undone: to_undo(done, undone)[::-1])


@mutant("what a run has undone by itself is undone again when it fails", _PROCESSES)
def undone_twice(patch: Patch) -> None:
    patch.setattr(undoing, "to_undo", lambda done, _: to_undo(done, ()))


@mutant("a run that sleeps is not woken", _PROCESSES)
def run_never_woken(patch: Patch) -> None:
    def set_no_timer(self: Turn, record: Record, due_ms: int) -> None:
        record.due_ms = due_ms
        self._keep(record)

    patch.setattr(Turn, "set_timer", set_no_timer)


# ---------------------------------------------------------------------- G9: calls outside


@mutant("a call whose outcome is unknown is made again, and nobody looks first", _LETTERS)
def called_blindly(patch: Patch) -> None:
    patch.setattr(effects, "next_step", lambda *_, **__: "call")


@mutant("that a call is about to be made is not recorded", _LETTERS)
def intent_not_recorded(patch: Patch) -> None:
    intend = effects.Effects._intend

    async def keep_in_mind(self: Any, name: str, known: Any) -> Any:
        made: Any = await intend(self, name, known)
        async with self._store.unit() as late:
            await late.execute("DELETE FROM antiphon_effects WHERE key = ?", (made.key,))
        return made

    patch.setattr(effects.Effects, "_intend", keep_in_mind)


@mutant("what became of a call is not recorded with the handler's work", _LETTERS)
def outcome_not_recorded(patch: Patch) -> None:
    async def forget(self: Any, _: Any) -> None:
        self._unrecorded.clear()

    patch.setattr(effects.Effects, "record", forget)


# ---------------------------------------------------------------------- what people see, and do


@mutant("the event table shows COMPLETED for what waits to be tried again", _FAILURES)
def retry_shown_as_completed(patch: Patch) -> None:
    change_views(patch, "WHEN d.status IS NOT NULL", "WHEN d.status IS NOT NULL AND d.status <> 'RETRY'")


@mutant("the event table shows UNPROCESSED for what took effect last", trial(events=4))
def completed_shown_as_unprocessed(patch: Patch) -> None:
    change_views(patch, "WHEN l.seq <= h.seq THEN 'COMPLETED'", "WHEN l.seq < h.seq THEN 'COMPLETED'")


@mutant("a redrive puts back what has been dealt with, too", trial("redrives", 16, handler=60.0))
def redrive_that_doubles(patch: Patch) -> None:
    async def put_back(unit_: SqliteUnit, handler_id: int, seq: int, type_: str, store_ms: int, now_ms: int) -> bool:
        revived = await revive(unit_, handler_id, seq, type_, store_ms, now_ms)
        await unit_.execute(
            "INSERT OR IGNORE INTO antiphon_deliveries (handler_id, seq, key, status, due_ms, updated_ms) "
            "SELECT ?1, seq, key, 'UNPROCESSED', ?3, ?4 FROM antiphon_log WHERE type = ?5 AND seq < ?2",
            (handler_id, seq, store_ms, now_ms, type_),
        )
        return revived

    revive = redrives.revive
    patch.setattr(redrives, "revive", put_back)


@mutant("retention removes events that wait for their next attempt", _SLOW)
def retention_of_what_is_retried(patch: Patch) -> None:
    change_sql(patch, "part_unneeded", "WHERE d.archived IS NULL", "WHERE d.archived IS NULL AND d.status <> 'RETRY'")


@mutant("retention removes dead letters that nobody has looked at", _SLOW)
def retention_of_dead_letters(patch: Patch) -> None:
    change_sql(
        patch,
        "part_unneeded",
        "WHERE d.archived IS NULL",
        "WHERE d.archived IS NULL AND d.status NOT IN ('ERROR', 'FAILED')",
    )


# ---------------------------------------------------------------------- the command


def main(arguments: Sequence[str] | None = None) -> int:
    """Look for all mutants, or for those that are named; say what was found, and whether the engine is sound."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulate.mutants", description=main.__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="mutants (default: all)")
    parser.add_argument("--seeds", metavar="N", type=int, default=MOST_SEEDS, help=f"at most (default {MOST_SEEDS})")
    parser.add_argument("--markdown", action="store_true", help="print the table of the documentation")
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    options = parser.parse_args(arguments)
    if unknown := sorted(set(options.names) - set(MUTANTS)):
        parser.error(f"there is no mutant {', '.join(unknown)}")
    findings = [told(hunt(MUTANTS[name], options.seeds), options.markdown) for name in options.names or MUTANTS]
    worlds = {(MUTANTS[finding.name].trial, finding.seeds - 1) for finding in findings}
    broken = {(where, seed): found for where, seed in worlds if (found := control(where, seed))}
    for (where, seed), violations in broken.items():
        print(f"the engine itself, in seed {seed} of {where}: {violations}", file=sys.stderr)
    if options.markdown:
        print("\n".join(table(findings)))
    if options.json:
        counted = {
            "mutants": msgspec.to_builtins(findings),
            "found": sum(finding.found for finding in findings),
            "control_worlds": len(worlds),
            "control_violations": sum(map(len, broken.values())),
        }
        print(json.dumps(counted))
    return 0 if not broken and all(finding.found for finding in findings) else 1


def told(finding: Finding, aside: bool) -> Finding:
    """*finding*, of which whoever waits is told in a line: *aside*, on stderr."""
    broken = ", ".join(finding.promises) or "NOT FOUND"
    line = f"{finding.seeds:5} seeds {finding.cpu_seconds:7.2f} s  {finding.name:34} {broken}"
    print(line, file=sys.stderr if aside else sys.stdout, flush=True)
    return finding


def table(findings: Iterable[Finding]) -> list[str]:
    """The lines of the table of the documentation."""
    lines = ["| The mistake | Broken promise that was seen first | Seeds |", "|---|---|---|"]
    for finding in findings:
        promise, _, invariant = finding.promises[0].partition(" ") if finding.found else ("none", "", "")
        lines.append(f"| {finding.says} | {promise} `{invariant}` | {finding.seeds} |")
    return lines


if __name__ == "__main__":
    raise SystemExit(main())
