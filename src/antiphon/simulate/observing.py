"""Watches handlers at work: their functions run unchanged, and leave a row in the transaction of each attempt.

The row is written when the function has returned, so it is committed with the effects of the attempt or
not at all: it tells the invariants what took effect, how often, in which order and by whom. Triggers beside
it note what the engine does to leases, cursors and timers.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from types import GeneratorType
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

import msgspec

from antiphon.errors import DeclarationError, InvalidEvent, NotAnnotated, Reject
from antiphon.model.events import event_type_of
from antiphon.model.handlers import HandlerSpec, ParameterKind, ServiceSpec
from antiphon.model.retry import Retry, minutes
from antiphon.simulate.calling import WatchedEffects
from antiphon.simulate.ledger import Attempt, Ledger
from antiphon.simulate.process import PROCESS, Killed, Process
from antiphon.simulate.stepping import StepWatcher

if TYPE_CHECKING:
    from antiphon.simulate.world import World

#: The simulator's own tables and triggers, made in every store.
TABLES = """
CREATE TABLE IF NOT EXISTS sim_effects (
    n INTEGER PRIMARY KEY, handler TEXT, event_id TEXT, seq INTEGER, key TEXT, owner TEXT, lease_owner TEXT,
    epoch INTEGER, store_ms INTEGER, published TEXT
);
CREATE TABLE IF NOT EXISTS sim_leases (
    n INTEGER PRIMARY KEY, handler TEXT, old_owner TEXT, owner TEXT, old_epoch INTEGER, epoch INTEGER, until_ms INTEGER
);
CREATE TABLE IF NOT EXISTS sim_timers (
    n INTEGER PRIMARY KEY, id TEXT, due_ms INTEGER, clock TEXT, recurring INTEGER, type TEXT
);
CREATE TABLE IF NOT EXISTS sim_fired (
    n INTEGER PRIMARY KEY, id TEXT
);
CREATE TABLE IF NOT EXISTS sim_steps (
    n INTEGER PRIMARY KEY, workflow TEXT, run TEXT, position TEXT, is_undo INTEGER, can_be_undone INTEGER
);
CREATE TABLE IF NOT EXISTS sim_wrongs (
    n INTEGER PRIMARY KEY, invariant TEXT, text TEXT
);
CREATE TRIGGER IF NOT EXISTS sim_lease AFTER UPDATE OF owner, epoch ON antiphon_handlers
WHEN OLD.owner IS NOT NEW.owner OR OLD.epoch <> NEW.epoch BEGIN
    INSERT INTO sim_leases (handler, old_owner, owner, old_epoch, epoch, until_ms)
    VALUES (NEW.name || CASE WHEN NEW.part THEN '#' || NEW.part ELSE '' END, OLD.owner, NEW.owner, OLD.epoch, NEW.epoch,
            OLD.lease_until_ms);
END;
CREATE TRIGGER IF NOT EXISTS sim_timer AFTER INSERT ON antiphon_timers BEGIN
    INSERT INTO sim_timers (id, due_ms, clock, recurring, type)
    VALUES (NEW.id, NEW.due_ms, NEW.clock, NEW.recurrence IS NOT NULL, NEW.type);
END;
CREATE TRIGGER IF NOT EXISTS sim_fire AFTER DELETE ON antiphon_timers WHEN sim_task() LIKE 'timers of %' BEGIN
    INSERT INTO sim_fired (id) VALUES (OLD.id);
END;
CREATE TRIGGER IF NOT EXISTS sim_record AFTER UPDATE ON antiphon_journal
WHEN OLD.mark = 'DONE' AND (NEW.mark <> 'DONE' OR NEW.result IS NOT OLD.result) BEGIN
    INSERT INTO sim_wrongs (invariant, text)
    VALUES ('G6 journals_stay',
            OLD.kind || ' ' || OLD.name || ' of run ' || OLD.run || ' was done, and is recorded anew');
END;
CREATE TRIGGER IF NOT EXISTS sim_end AFTER UPDATE OF state ON antiphon_runs
WHEN OLD.state IN ('COMPLETED', 'COMPENSATED', 'FAILED', 'CANCELLED') AND NEW.state <> OLD.state BEGIN
    INSERT INTO sim_wrongs (invariant, text)
    VALUES ('G6 journals_stay', 'run ' || OLD.id || ' had ended ' || OLD.state || ', and is ' || NEW.state);
END;
CREATE TRIGGER IF NOT EXISTS sim_cursor AFTER UPDATE OF seq ON antiphon_handlers WHEN NEW.seq < OLD.seq BEGIN
    INSERT INTO sim_wrongs (invariant, text)
    VALUES ('G3 cursors_never_go_back', NEW.name || ' went from ' || OLD.seq || ' to ' || NEW.seq);
END;
CREATE TRIGGER IF NOT EXISTS sim_position AFTER UPDATE OF seq ON antiphon_positions WHEN NEW.seq < OLD.seq BEGIN
    INSERT INTO sim_wrongs (invariant, text)
    VALUES ('G3 cursors_never_go_back', NEW.name || ' went from ' || OLD.seq || ' to ' || NEW.seq);
END;
CREATE TRIGGER IF NOT EXISTS sim_fact AFTER UPDATE ON antiphon_log BEGIN
    INSERT INTO sim_wrongs (invariant, text) VALUES ('G1 facts_stay', 'event ' || OLD.id || ' was changed');
END;
CREATE TRIGGER IF NOT EXISTS sim_blame AFTER UPDATE OF crashes ON antiphon_deliveries
WHEN NEW.crashes > OLD.crashes AND NOT OLD.suspect BEGIN
    INSERT INTO sim_wrongs (invariant, text)
    VALUES ('G8 bystanders_are_not_blamed',
            'position ' || NEW.seq || ' of handler ' || NEW.handler_id || ' was blamed, and had not run alone');
END;
"""

_ROW = (
    "INSERT INTO sim_effects (handler, event_id, seq, key, owner, lease_owner, epoch, store_ms, published) "
    "SELECT h.name, l.id, l.seq, l.key, ?, h.owner, h.epoch, ?, ? FROM antiphon_handlers AS h, antiphon_log AS l "
    "WHERE h.name = ? AND l.id = ? AND l.bucket & (h.parts - 1) = h.part"
)
_FOR_EVER_S = 1e9
#: A step of a workflow fails so often at most; its policy may have patience for days.
_CALLS_OF_A_STEP = 3
_PATIENCE = minutes(10)
#: What only code of users does: fail when its work is done, never end, reject.
_OF_USERS = frozenset({"after", "hang", "reject"})


class SimulatedFailure(Exception):
    """What a handler raises because the simulator wants it to."""


class Fate(msgspec.Struct):
    """What the first calls of a handler on one event come to: *kind* for so many *calls*, then they succeed."""

    kind: str
    calls: int

    @classmethod
    def parse(cls, text: str) -> Fate:
        """``raise*2``, ``kill-after*1``, ``reject``."""
        kind, _, calls = text.partition("*")
        return cls(kind, int(calls or 99))

    def is_over(self, spec: HandlerSpec, calls: int, *, healed: bool) -> bool:
        """Whether it has done its *calls*. When the faults of a world are over it goes on only if the handler's
        own policy gives up soon: nobody waits a day for a dead letter."""
        return calls > self.calls or (healed and _longest_wait(spec.retry) > _PATIENCE)


def _longest_wait(retry: Retry) -> timedelta:
    """How long at most it takes until *retry* gives up, as far as its delays go."""
    total, delay = timedelta(0), retry.first
    for _ in range(retry.attempts - 1):
        total += min(delay, retry.cap)
        delay = min(delay * retry.factor, retry.cap)
        if total >= retry.max_age:
            return retry.max_age
    return total


class Surroundings(Protocol):
    """What an observed handler needs to know of the world that it runs in."""

    ledger: Ledger

    @property
    def healed(self) -> bool:
        """Whether faults are over."""

    def owner(self) -> str:
        """The owner of the leases of the process that runs now."""

    def store_ms(self, service: str) -> int:
        """The clock of the store of *service*, in the process that runs now."""

    def fate(self, handler: str) -> str | None:
        """Whether an event that *handler* sees for the first time shall fare ill, and how (see `Fate.parse`)."""

    def die(self, why: str) -> NoReturn:
        """End the process that runs now."""


class Here:
    """The surroundings in a world: those of the process whose code runs."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.ledger = world.ledger

    @property
    def healed(self) -> bool:
        """Whether faults are over."""
        return self._world.healed

    @staticmethod
    def _process() -> Process:
        process = PROCESS.get()
        assert process is not None, "a handler runs in no process"
        if not process.alive:
            raise Killed  # what is left of it may still call handlers, until it meets its store
        return process

    def owner(self) -> str:
        """The owner of the process that runs now."""
        return self._process().owner

    def store_ms(self, service: str) -> int:
        """The clock of the store of *service*."""
        runtime = self._process().runtime
        assert runtime is not None, "a handler runs before its process has started"
        return int(runtime.store_of(service).store_ms())

    def fate(self, handler: str) -> str | None:
        """What a fault of the kind ``handler`` says, if one strikes here."""
        fault = self._world.effects.point("handler", handler.encode())
        return None if fault is None else fault.detail

    def die(self, why: str) -> NoReturn:
        """Kill the process that runs now."""
        self._world.kill(self._process(), why)
        raise Killed


def wrap(world: World, specs: Iterable[ServiceSpec]) -> list[ServiceSpec]:
    """*specs* with handlers that are watched, in *world*."""
    return watch(Here(world), specs)


def watch(world: Surroundings, specs: Iterable[ServiceSpec]) -> list[ServiceSpec]:
    """*specs* with handlers that are watched."""
    watcher = Watcher(world)
    return [replace(spec, handlers=tuple(map(watcher.watched, spec.handlers))) for spec in specs]


class Watcher:
    """Wraps handlers, and remembers what is to become of each event."""

    def __init__(self, world: Surroundings) -> None:
        self._world = world
        self._steps = StepWatcher(world.ledger, self._fate_of_step)
        self._fates: dict[tuple[str, str], Fate | None] = {}
        self._calls: dict[tuple[str, str], int] = {}

    def watched(self, spec: HandlerSpec) -> HandlerSpec:
        """*spec* with a function that calls the user's and writes its row."""
        if spec.workflow is not None:
            spec = self._steps.watched(spec)
        parameters, of_kind = _with(spec.parameters, spec.is_async)
        call = _Call(self, spec, of_kind)
        return replace(spec, fn=call.in_loop if spec.is_async else call.in_thread, parameters=parameters)

    @property
    def ledger(self) -> Ledger:
        """What the world outside knows."""
        return self._world.ledger

    def begins(self, spec: HandlerSpec, event_id: str) -> tuple[Attempt, str | None]:
        """Note the call, and say what is to become of it (None: nothing bad)."""
        what = (spec.name, event_id)
        attempt = self._world.ledger.begins(*what, self._world.owner())
        if what not in self._fates:
            text = self._world.fate(spec.name)
            self._fates[what] = None if text is None else Fate.parse(text)
        self._calls[what] = self._calls.get(what, 0) + 1
        fate = self._fates[what]
        if fate is None or fate.is_over(spec, self._calls[what], healed=self._world.healed):
            return attempt, None
        # A turn of a workflow is the engine's own: it writes what no later error of a handler could undo by itself.
        return attempt, "raise" if spec.workflow is not None and fate.kind in _OF_USERS else fate.kind

    def _fate_of_step(self, step: str, what: tuple[str, str]) -> Callable[[bool], None]:
        """Carries out, before and (True) after the next call of a workflow's step, what is to become of it."""
        if what not in self._fates:
            text = self._world.fate(step)
            self._fates[what] = None if text is None else Fate.parse(text)
        self._calls[what] = self._calls.get(what, 0) + 1
        fate = self._fates[what]

        def strike(after: bool) -> None:
            if fate is None or self._calls[what] > min(fate.calls, _CALLS_OF_A_STEP):
                return
            if fate.kind.endswith("after") != after:
                return
            if fate.kind.startswith("kill"):
                self._world.die(f"{step} kills its process")
            if fate.kind == "reject":
                raise Reject("the simulator wants it rejected")
            raise SimulatedFailure(f"the simulator wants {step} to fail")

        return strike

    def ends(self, attempt: Attempt, error: BaseException | None) -> None:
        """Note how the call ended."""
        ledger = self._world.ledger
        if error is None:
            ledger.ends(attempt, "returned")
        elif isinstance(error, Reject | InvalidEvent | NotAnnotated):
            ledger.ends(attempt, "rejected", str(error))
        elif isinstance(error, asyncio.CancelledError):
            ledger.ends(attempt, "cancelled")
        elif isinstance(error, Exception):
            ledger.ends(attempt, "raised", f"{type(error).__name__}: {error}")

    def strike(self, spec: HandlerSpec, fate: str | None, *, after: bool) -> None:
        """Carry out a fate that is due at this moment, but for one that hangs."""
        if fate is None or fate.endswith("after") != after:
            return
        if fate.startswith("kill"):
            self._world.die(f"{spec.name} kills its process")
        if fate == "reject":
            raise Reject("the simulator wants it rejected")
        if fate in ("raise", "after") or not spec.is_async:
            raise SimulatedFailure(f"the simulator wants {spec.name} to fail")

    def row(self, spec: HandlerSpec, event_id: str, outgoing: Sequence[Any], result: Any) -> tuple[str, list[Any]]:
        """The statement that tells that an attempt took effect, and its parameters."""
        published = [envelope.type for envelope, _ in outgoing]
        for event in result if isinstance(result, list | tuple) else [result]:
            with suppress(DeclarationError):  # not an event: the engine refuses it
                published.append(event_type_of(event).name)
        values = [self._world.owner(), self._world.store_ms(spec.service), json.dumps(published), spec.name, event_id]
        return _ROW, values


class _Call:
    """Calls one handler's function with what it asked for."""

    def __init__(self, watcher: Watcher, spec: HandlerSpec, of_kind: dict[ParameterKind, str]) -> None:
        self._watcher = watcher
        self._spec = spec
        self._of_kind = of_kind
        self._names = [name for name, _ in spec.parameters]
        kinds = tuple(kind for _, kind in spec.parameters)
        self._by_position = kinds in (("event",), ("event", "transaction"))

    def _user(self, given: dict[str, Any]) -> Any:
        if self._by_position:
            return self._spec.fn(*[given[name] for name in self._names])
        return self._spec.fn(**{name: given[name] for name in self._names})

    async def in_loop(self, **given: Any) -> Any:
        watcher, spec = self._watcher, self._spec
        event_id = given[self._of_kind["delivery"]].envelope.id
        tx = given[self._of_kind["transaction"]]
        if "effects" in self._of_kind:
            name = self._of_kind["effects"]
            given[name] = WatchedEffects(given[name], watcher.ledger, spec.name, event_id)
        attempt, fate = watcher.begins(spec, event_id)
        try:
            watcher.strike(spec, fate, after=False)
            if fate == "hang":
                await asyncio.sleep(_FOR_EVER_S)
            result = _settled(await self._user(given))
            sql, values = watcher.row(spec, event_id, tx.outgoing, result)
            await tx.execute(sql, *values)
            watcher.strike(spec, fate, after=True)
        except BaseException as error:
            watcher.ends(attempt, error)
            raise
        watcher.ends(attempt, None)
        return result

    def in_thread(self, **given: Any) -> Any:
        watcher, spec = self._watcher, self._spec
        event_id = given[self._of_kind["delivery"]].envelope.id
        outgoing = given[self._of_kind["transaction"]].outgoing
        attempt, fate = watcher.begins(spec, event_id)
        try:
            watcher.strike(spec, fate, after=False)
            result = _settled(self._user(given))
            sql, values = watcher.row(spec, event_id, outgoing, result)
            given[self._of_kind["sync_transaction"]].execute(sql, *values)
            watcher.strike(spec, fate, after=True)
        except BaseException as error:
            watcher.ends(attempt, error)
            raise
        watcher.ends(attempt, None)
        return result


def _settled(result: Any) -> Any:
    """*result*, a generator's events as a list: they are counted, and published afterwards."""
    return list(result) if isinstance(result, GeneratorType) else result


def _with(
    parameters: tuple[tuple[str, ParameterKind], ...], is_async: bool
) -> tuple[tuple[tuple[str, ParameterKind], ...], dict[ParameterKind, str]]:
    """*parameters* and those that the watcher needs besides, and the names of all by kind."""
    needed: list[ParameterKind] = ["delivery", "transaction"]
    if not is_async:
        needed.append("sync_transaction")
    of_kind = {kind: name for name, kind in parameters}
    extra = tuple((f"antiphon_{kind}", kind) for kind in needed if kind not in of_kind)
    of_kind.update({kind: name for name, kind in extra})
    return (*parameters, *extra), of_kind
