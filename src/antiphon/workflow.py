"""How a workflow is declared: its function becomes two handlers, and a handle to its runs."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from antiphon.declaring import place_of
from antiphon.errors import DeclarationError, NotFound
from antiphon.model.events import EventType
from antiphon.model.handlers import HandlerSpec
from antiphon.model.retry import Retry, days
from antiphon.model.workflows import Advance, RunView, WorkflowSpec, advance_envelope
from antiphon.policy import signatures
from antiphon.ports import INTERNAL
from antiphon.runtime.transaction import Transaction
from antiphon.runtime.workflow.definitions import StateMachine
from antiphon.runtime.workflow.engine import Engine
from antiphon.runtime.workflow.handle import Workflow
from antiphon.runtime.workflow.machines import Execution, task_signal
from antiphon.runtime.workflow.steps import write
from antiphon.store.workflows import address_of, newest_run

#: A turn may take long: its steps have limits of their own.
_TURN_LIMIT = days(1)
CONCURRENCY = 16

KeyOf = str | Callable[[Any], Any] | None


@dataclass(frozen=True)
class WorkflowOptions:
    """What may be said of a workflow besides the events that start it."""

    key: KeyOf = None
    awaits: tuple[EventType, ...] = ()
    publishes: tuple[EventType, ...] = ()
    version: int = 1
    retry: Retry | None = None
    concurrency: int = CONCURRENCY


class WorkflowHandle:
    """A declared workflow. Calling it calls its function, as a unit test may."""

    def __init__(self, first: WorkflowSpec) -> None:
        self.name = first.name
        self.concurrency = CONCURRENCY
        self.engine = Engine(first)

    def __repr__(self) -> str:
        return f"<workflow {self.name}>"

    @property
    def spec(self) -> WorkflowSpec:
        """The newest version."""
        return self.engine.spec

    @property
    def versions(self) -> Mapping[int, WorkflowSpec]:
        """Every version that is in the code."""
        return self.engine.versions

    def __call__(self, event: Any, wf: Any) -> Any:
        return self.spec.fn(event, wf)

    # ------------------------------------------------------------------ acts on a run

    async def signal(
        self, tx: Transaction, name: str, data: Any = None, *, key: str | None = None, id: str | None = None
    ) -> str:
        """Send the signal *name* with *data* (a JSON value) to the live run of *key*, or the run *id*.

        It is sent when the transaction commits. As all acts, it returns the run's id, and raises NotFound if
        there is no such run in the store of the transaction.
        """
        return await self._act(tx, key, id, "signal", name=name, data=msgspec.Raw(write(data)))

    async def cancel(self, tx: Transaction, reason: str, *, key: str | None = None, id: str | None = None) -> str:
        """Cancel a run: where its function waits, WorkflowCancelled is raised, and what was done is undone."""
        return await self._act(tx, key, id, "cancel", reason=reason)

    async def pause(self, tx: Transaction, reason: str, *, key: str | None = None, id: str | None = None) -> str:
        """Let a run stand still until it is resumed. What arrives for it meanwhile is kept."""
        return await self._act(tx, key, id, "pause", reason=reason)

    async def resume(self, tx: Transaction, *, key: str | None = None, id: str | None = None) -> str:
        """Let a run go on that is PAUSED or STUCK; an undo step that has failed is attempted anew."""
        return await self._act(tx, key, id, "resume")

    async def skip(self, tx: Transaction, reason: str, *, key: str | None = None, id: str | None = None) -> str:
        """Leave the undo step out that a run is STUCK at; a run that no longer fits its code ends FAILED."""
        return await self._act(tx, key, id, "skip", reason=reason)

    async def _act(self, tx: Transaction, key: str | None, id: str | None, act: str, **values: Any) -> str:
        found = await address_of(tx.rows, self.name, key=key, run_id=id)
        if found is None:
            raise NotFound(
                f"there is no live run of key {key!r}" if id is None else f"there is no run {id}", where=self.name
            )
        run_id, address = found
        clock = tx.publisher.clock
        envelope = advance_envelope(Advance(run_id, act, **values), address, clock.new_id(), clock.now_ms(), tx.cause)
        tx.outgoing.append((envelope, INTERNAL))
        return run_id

    async def find(self, tx: Transaction, *, key: str) -> RunView | None:
        """The newest run of *key*, as it is committed or written in *tx*; None if there is none."""
        return await newest_run(tx.rows, self.name, key)

    def handlers(self) -> list[HandlerSpec]:
        """The handlers that move its runs on and keep what arrives for them."""
        spec = self.spec
        advance = EventType(Advance, "struct", key=None, version=1, name=spec.advance_type, domain=True)
        given = (("event", "event"), ("tx", "transaction"), ("delivery", "delivery"))
        found = [
            HandlerSpec(
                name=spec.name,
                service=spec.service,
                fn=self.engine.advance,
                types=(*spec.starts, advance),
                publishes=spec.publishes,
                parameters=given,  # type: ignore[arg-type]
                is_async=True,
                source=spec.source,
                has_retry=True,
                concurrency=self.concurrency,
                timeout=_TURN_LIMIT,
                code=spec.fn,
                workflow=spec,
            )
        ]
        if spec.awaits:
            found.append(
                HandlerSpec(
                    name=f"{spec.name}.inbox",
                    service=spec.service,
                    fn=self.engine.receive,
                    types=spec.awaits,
                    publishes=(),
                    parameters=given,  # type: ignore[arg-type]
                    is_async=True,
                    source=spec.source,
                    has_retry=True,
                    workflow=spec,
                )
            )
        return found


class MachineHandle(WorkflowHandle):
    """A declared state machine. A Task that hands out a token ends when one of these is called with it."""

    async def succeed(self, tx: Transaction, token: str, output: Any = None) -> None:
        """The task of *token* has the result *output* (a JSON value). Raises NotFound if its run is not there."""
        await self._report(tx, token, act="succeed", output=output)

    async def fail(self, tx: Transaction, token: str, error: str, cause: str | None = None) -> None:
        """The task of *token* has failed. Raises NotFound."""
        await self._report(tx, token, act="fail", error=error, cause=cause)

    async def beat(self, tx: Transaction, token: str) -> None:
        """The task of *token* is still being worked on: the time of HeartbeatSeconds begins anew. Raises NotFound."""
        await self._report(tx, token, act="beat")

    async def _report(self, tx: Transaction, token: str, **told: Any) -> None:
        await self.signal(tx, task_signal(token), told, id=token.partition(".")[0])


def machine_spec(machine: StateMachine, service: str, where: str) -> WorkflowSpec:
    """What *machine* is as a workflow of *service*. Raises DeclarationError."""
    options = WorkflowOptions(machine.key, machine.awaits, machine.publishes, machine.version)
    _check(options, machine.starts, where)

    async def play(event: Any, wf: Workflow) -> Any:
        return await Execution(machine.machine, machine.resources, wf).run(machine.input(event))

    return WorkflowSpec(
        name=f"{service}.{machine.name}",
        service=service,
        fn=play,
        starts=machine.starts,
        awaits=machine.awaits,
        publishes=machine.publishes,
        key_of=_key_function(machine.key),
        version=machine.version,
        retry=Retry(),
        source=where,
        is_machine=True,
    )


def workflow_spec(
    fn: Callable[..., Any],
    service: str,
    local: str,
    starts: Sequence[EventType],
    options: WorkflowOptions,
    names: Mapping[str, Any],
) -> WorkflowSpec:
    """What *fn* declares. Raises DeclarationError for a function that cannot be a workflow."""
    where = place_of(fn)
    if not inspect.iscoroutinefunction(fn):
        raise DeclarationError(f"workflow {local!r} is not async", where=where, mend="Write async def")
    hints = signatures.resolve(fn, names, where)
    parameters = list(inspect.signature(fn).parameters)
    if len(parameters) != 2 or hints.get(parameters[1]) is not Workflow:
        raise DeclarationError(
            f"workflow {local!r} takes {', '.join(parameters) or 'nothing'}",
            where=where,
            mend=f"Write async def {local}(event: TheEvent, wf: Workflow)",
        )
    starts = tuple(starts) or signatures.events_of_first_parameter(fn, hints, where)
    _check(options, starts, where)
    publishes = dict.fromkeys([*signatures.events_in_result(hints), *options.publishes])
    return WorkflowSpec(
        name=f"{service}.{local}",
        service=service,
        fn=fn,
        starts=starts,
        awaits=options.awaits,
        publishes=tuple(publishes),
        key_of=_key_function(options.key),
        version=options.version,
        retry=options.retry or Retry(),
        source=where,
    )


def _check(options: WorkflowOptions, starts: Sequence[EventType], where: str) -> None:
    version, retry = options.version, options.retry
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        raise DeclarationError(f"version is {version!r}; it must be an integer from 1", where=where)
    if retry is not None and not isinstance(retry, Retry):
        raise DeclarationError(f"retry is {retry!r}; it must be a Retry(...)", where=where)
    if isinstance(options.key, str):
        for each in starts:
            if options.key not in inspect.get_annotations(each.cls) and not hasattr(each.cls, options.key):
                raise DeclarationError(f"key is {options.key!r}, which {each.name} has no field of", where=where)


def _key_function(key: KeyOf) -> Callable[[Any], Any] | None:
    if isinstance(key, str):
        return lambda event: getattr(event, key)
    return key
