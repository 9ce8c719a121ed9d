"""Watches workflows at work: their functions run unchanged, and each step leaves a row in its own transaction.

A step may fail, or kill its process, because the simulator wants it to.

The row is written when the step has returned, so it is committed with what the step wrote or not at all.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from antiphon.model.handlers import HandlerSpec
from antiphon.model.workflows import WorkflowSpec
from antiphon.runtime.blocking import SyncTransaction
from antiphon.runtime.transaction import Transaction
from antiphon.runtime.workflow.engine import Engine
from antiphon.runtime.workflow.handle import Workflow
from antiphon.runtime.workflow.steps import callee
from antiphon.runtime.workflow.turn import BRANCH, Turn
from antiphon.simulate.calling import WatchedEffects
from antiphon.simulate.ledger import Ledger

_ROW = "INSERT INTO sim_steps (workflow, run, position, is_undo, can_be_undone) VALUES (?, ?, ?, ?, ?)"
_TX = "antiphon_tx"

#: Asked of a step (by name) of a run and position, before each call: what carries out what is to become of it,
#: called before and (True) after the step itself.
FateOf = Callable[[str, tuple[str, str]], Callable[[bool], None]]


class StepWatcher:
    """Gives workflows a `Workflow` that watches their steps."""

    def __init__(self, ledger: Ledger, fate_of: FateOf) -> None:
        self._ledger = ledger
        self._fate_of = fate_of

    def watched(self, spec: HandlerSpec) -> HandlerSpec:
        """*spec*, one of the handlers of a workflow, with an engine that calls the author's function watched."""
        engine: Engine = spec.fn.__self__  # type: ignore[attr-defined]
        versions = [replace(each, fn=self._function(each)) for each in engine.versions.values()]
        watching = Engine(versions[0])
        for version in versions[1:]:
            watching.add(version)
        return replace(spec, fn=getattr(watching, spec.fn.__name__), workflow=watching.spec)

    def _function(self, spec: WorkflowSpec) -> Callable[..., Any]:
        async def watched(event: Any, wf: Workflow) -> Any:
            return await spec.fn(event, _Watching(wf._turn, self._ledger, self._fate_of))

        return watched


class _Watching(Workflow):
    """The calls of one run, whose steps leave rows."""

    __slots__ = ("_fate_of", "_ledger")

    def __init__(self, turn: Turn, ledger: Ledger, fate_of: FateOf) -> None:
        super().__init__(turn)
        self._ledger = ledger
        self._fate_of = fate_of

    async def step(self, fn: Callable[..., Any], *args: Any, undo: Callable[..., Any] | None = None, **how: Any) -> Any:
        """See `Workflow.step`."""
        branch = BRANCH.get()
        run = self._turn.run
        where = (run.workflow, run.id, f"{branch.prefix}{branch.count + 1}")
        if not (inspect.isroutine(fn) and (undo is None or inspect.isroutine(undo))):
            self._ledger.unwatched_steps.add(where)
            return await super().step(fn, *args, undo=undo, **how)
        noted = _noting(fn, (*where, 0, int(undo is not None)), self._ledger, self._fate_of)
        noted_undo = None if undo is None else _noting(undo, (*where, 1, 0), self._ledger, self._fate_of)
        return await super().step(noted, *args, undo=noted_undo, **how)


def _noting(fn: Callable[..., Any], row: tuple[Any, ...], ledger: Ledger, fate_of: FateOf) -> Callable[..., Any]:
    """*fn*, which writes *row* when it has returned, in the transaction that it is given, or would be."""
    step = callee(fn)
    own_tx = next((name for name, kind in step.given if kind in ("transaction", "sync_transaction")), None)
    workflow, run, position, is_undo, _ = row
    place = f"{'undo of ' * is_undo}{position}"

    def prepared(named: dict[str, Any]) -> tuple[Any, dict[str, Any], Callable[[bool], None]]:
        """The transaction, what the step itself is given, and what carries out its fate."""
        tx = named[own_tx] if own_tx else named.pop(_TX)
        for name, kind in step.given:
            if kind == "effects":
                named[name] = WatchedEffects(named[name], ledger, workflow, run, f"{place}.")
        return tx, named, fate_of(f"{workflow}/{step.name}", (run, place))

    if step.is_async:

        @functools.wraps(fn)
        async def noting(*args: Any, **named: Any) -> Any:
            tx, given, strike = prepared(named)
            strike(False)
            result = await fn(*args, **given)
            await tx.execute(_ROW, *row)
            strike(True)
            return result
    else:

        @functools.wraps(fn)
        def noting(*args: Any, **named: Any) -> Any:
            tx, given, strike = prepared(named)
            strike(False)
            result = fn(*args, **given)
            tx.execute(_ROW, *row)
            strike(True)
            return result

    if own_tx is None:
        asked = Transaction if step.is_async else SyncTransaction
        more = inspect.Parameter(_TX, inspect.Parameter.KEYWORD_ONLY, annotation=asked)
        signature = inspect.signature(fn)
        vars(noting)["__signature__"] = signature.replace(parameters=[*signature.parameters.values(), more])
        noting.__annotations__ = {**fn.__annotations__, _TX: asked}
    return noting
