"""What a workflow's function holds in its hand: calls that are recorded once and answered from the journal."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar, overload

import msgspec

from antiphon.errors import DeclarationError, StepFailed, WaitTimedOut, WorkflowCancelled
from antiphon.model.envelope import Envelope
from antiphon.model.events import event_type_of
from antiphon.model.retry import Retry, milliseconds
from antiphon.model.workflows import Kind, Mark, Record
from antiphon.runtime.answers import timed_out
from antiphon.runtime.workflow import gathering, undoing
from antiphon.runtime.workflow.attempting import Attempt, carry_out
from antiphon.runtime.workflow.children import Startable, await_child
from antiphon.runtime.workflow.steps import callee, write
from antiphon.runtime.workflow.turn import BRANCH, SIGNAL, Taken, Turn, Undoable, UndoableRequest, wait_address
from antiphon.store import workflows as rows

if TYPE_CHECKING:
    from antiphon.runtime.workflow.definitions import Definition, StateMachine

T = TypeVar("T")


class Workflow:
    """The calls of one run. Each is recorded when it is done, and answered from the record ever after.

    Between its calls the function does nothing that another run of it would not do as well: time, randomness
    and ids are asked here, what is outside is called in steps.
    """

    __slots__ = ("_turn",)

    def __init__(self, turn: Turn) -> None:
        self._turn = turn

    @property
    def id(self) -> str:
        """The run's id."""
        return self._turn.run.id

    @property
    def key(self) -> str:
        """The run's key."""
        return self._turn.run.key

    @property
    def workflow(self) -> str:
        """The workflow's name: ``service.function``."""
        return self._turn.run.workflow

    @property
    def started(self) -> datetime:
        """When it began, in UTC."""
        return datetime.fromtimestamp(self._turn.run.started_ms / 1000, UTC)

    @staticmethod
    def from_asl(
        definition: Definition,
        *,
        name: str,
        starts: type[Any] | tuple[type[Any], ...],
        resources: Mapping[str, Callable[..., Any] | type[Any]],
        undo: Mapping[str, Callable[..., Any] | type[Any]] | None = None,
        key: str | Callable[[Any], Any] | None = None,
        input: Callable[[Any], Any] | None = None,
        publishes: tuple[type[Any], ...] = (),
        version: int = 1,
        concurrency: int = 16,
    ) -> StateMachine:
        """The state machine of a *definition* in the Amazon States Language; ``service.add`` lets a service carry it.

        *definition* is its JSON text, what is in it, or its file. *resources* gives for each resource that a Task names
        the function that it calls, the class of the event that it publishes, or that of the command that it sends and
        whose answer it waits for; *undo* the function, or the command, that takes it back when a run is cancelled or
        fails. An event of *starts* begins a run of the *key* that a field or a function of it gives (None: the event's
        own) on its data, or on what the function *input* makes of it. The functions may publish the events in
        *publishes*. Several machines of one *name* differ in *version*. Raises DeclarationError, naming the place, for
        what is wrong in the definition or not supported.
        """
        from antiphon.runtime.workflow.definitions import declared

        return declared(
            definition,
            name,
            resources,
            starts,
            undo=undo or {},
            publishes=publishes,
            key=key,
            version=version,
            concurrency=concurrency,
            input_of=input,
        )

    # ------------------------------------------------------------------ steps

    @overload
    async def step(
        self,
        fn: Callable[..., Coroutine[Any, Any, T]],
        *args: Any,
        undo: Callable[..., Any] | None = None,
        retry: Retry | None = None,
        name: str | None = None,
        timeout: timedelta | None = None,
        calls_of: str | None = None,
    ) -> T: ...

    @overload
    async def step(
        self,
        fn: Callable[..., T],
        *args: Any,
        undo: Callable[..., Any] | None = None,
        retry: Retry | None = None,
        name: str | None = None,
        timeout: timedelta | None = None,
        calls_of: str | None = None,
    ) -> T: ...

    async def step(
        self,
        fn: Callable[..., Any],
        *args: Any,
        undo: Callable[..., Any] | None = None,
        retry: Retry | None = None,
        name: str | None = None,
        timeout: timedelta | None = None,
        calls_of: str | None = None,
    ) -> Any:
        """Call *fn* once, and return what it returned, in this turn and in every later one.

        Its writes, what it publishes and the record are one transaction. It fails and is tried again by *retry*
        (None: the workflow's); *undo* is called with the same arguments when the run is undone, and with what the
        step returned if it has a parameter ``result``. *calls_of*: steps that share it share the calls to the outside
        that are recorded by `Effects`. Raises StepFailed when the attempts are used up.
        """
        turn = self._turn
        known = callee(fn)
        name = name or known.name
        if not name:
            raise DeclarationError(f"{fn!r} has no name", where=turn.spec.name, mend="Say step(..., name=...)")
        position, record = turn.find(Kind.STEP, name)
        if record is None or record.mark is not Mark.DONE:
            if record is not None and turn.is_cancelled(record):
                raise _cancelled(turn)
            wanted = Attempt(known, Kind.STEP, name, args, retry or turn.spec.retry, timeout, calls_of=calls_of)
            record = await carry_out(turn, wanted, position, record)
        if record.mark is not Mark.DONE:
            raise StepFailed(name, record.error_type or "", record.error or "", record.attempts)
        result = known.read(record.result)
        if undo is not None:
            turn.undoable.append(Undoable(position, record.nr, name, undo, args, result, retry or turn.spec.retry))
        return result

    async def compensate(self, reason: str) -> None:
        """Undo what is done, the last step first, and go on; the run then ends COMPENSATED."""
        turn = self._turn
        position, record = turn.find(Kind.COMPENSATE, "compensate")
        if record is None:
            record = turn.add(position, Kind.COMPENSATE, "compensate", Mark.WAITING, error=reason)
        turn.run.error = turn.run.error or reason
        turn.compensated = True
        await undoing.undo_all(turn, f"{position}.u")
        if record.mark is Mark.WAITING:
            turn.change(record, Mark.DONE)

    # ------------------------------------------------------------------ waiting

    async def sleep(self, duration: timedelta | datetime, *, name: str = "sleep") -> None:
        """Go on after *duration*, or at a time with a zone; *name* is shown. Raises WorkflowCancelled."""
        turn = self._turn
        position, record = turn.find(Kind.SLEEP, name)
        if record is None:
            record = turn.add(position, Kind.SLEEP, name, Mark.WAITING)
            turn.set_timer(record, turn.now_ms + _span_ms(turn, duration))
        if turn.is_cancelled(record):
            raise _cancelled(turn)
        if record.mark is Mark.DONE:
            return
        if BRANCH.get().frozen or record.due_ms is None or record.due_ms > turn.now_ms:
            turn.park(record)
        turn.change(record, Mark.DONE)

    async def wait_for(
        self, *events: type[T], where: Callable[[T], bool] | None = None, timeout: timedelta | None = None
    ) -> T:
        """The next event of one of these types that belongs to this run: of its correlation, or of its key.

        *where* says which of them is meant; the others stay for later waits. What arrived before is found too.
        Raises WaitTimedOut after *timeout*, WorkflowCancelled.
        """
        name, read = self._awaited(events)

        def meant(arrival: rows.Arrival) -> bool:
            return where is None or where(read(arrival))

        return await self._wait(name, read, meant, timeout)  # type: ignore[no-any-return]

    async def request(
        self, command: object, *replies: type[T], timeout: timedelta | None = None, undo: object | None = None
    ) -> T:
        """Publish *command*, and return the event of *replies* that was published because of it.

        *timeout* is the command's deadline too; a reply that comes later is recorded as late, and taken by nobody.
        *undo* is a command that takes back what *command* may have done: when the run is undone it is sent whatever
        the answer was, or if there was none, and its own answer is awaited; if it is refused, the run is STUCK.
        Raises as `publish` and `wait_for`.
        """
        name, read = self._awaited(replies)
        is_answered = event_type_of(command).target is not None
        position, command_id = self._publish(command, timeout if is_answered else None)
        if undo is not None:
            self._awaited(undoing.replies_to(undo))
            self._turn.undoable.append(UndoableRequest(position, self._turn.journal[position].nr, name, undo))

        def meant(arrival: rows.Arrival) -> bool:
            return arrival.causation_id == command_id

        def unanswered() -> None:
            if is_answered:
                self._turn.send(timed_out(self._sent(command, command_id), self._turn.clock.now_ms()))

        return await self._wait(name, read, meant, timeout, unanswered)  # type: ignore[no-any-return]

    def _awaited(self, events: Sequence[type]) -> tuple[str, Callable[[Any], Any]]:
        """The name of a wait for *events*, and what reads one of them. Raises DeclarationError."""
        types = {event_type_of(each).name: event_type_of(each) for each in events}
        known = {each.name for each in self._turn.spec.awaits}
        if not types or not types.keys() <= known:
            raise DeclarationError(
                f"it waits for {', '.join(sorted(types.keys() - known)) or 'nothing'}, which it does not await",
                where=self._turn.spec.name,
                mend="Name it in @service.workflow(awaits=(...,))",
            )
        return "|".join(sorted(types)), lambda taken: types[taken.type].decode(bytes(taken.data), taken.version)

    async def signal(self, name: str, type: Any = Any, timeout: timedelta | None = None) -> Any:
        """The data of the next signal *name* that is sent to this run. Raises as `wait_for`."""
        return await self._wait(
            f"{SIGNAL}{name}", lambda taken: msgspec.json.decode(bytes(taken.data), type=type), None, timeout
        )

    async def _wait(
        self,
        name: str,
        read: Callable[[Any], Any],
        meant: Callable[[rows.Arrival], bool] | None,
        timeout: timedelta | None,
        unanswered: Callable[[], None] | None = None,
    ) -> Any:
        turn = self._turn
        position, record = turn.find(Kind.WAIT, name)
        if record is None:
            record = turn.add(position, Kind.WAIT, name, Mark.WAITING)
            if timeout is not None:
                turn.set_timer(record, turn.now_ms + milliseconds(timeout))
        if record.mark is Mark.WAITING:
            await self._look(record, meant, unanswered)
        if record.mark is Mark.DONE and record.result is not None:
            return read(msgspec.json.decode(record.result, type=Taken))
        if record.mark is Mark.TIMED_OUT:
            raise WaitTimedOut(f"{name} did not come in time", where=turn.spec.name)
        raise _cancelled(turn)

    async def _look(
        self,
        record: Record,
        meant: Callable[[rows.Arrival], bool] | None,
        unanswered: Callable[[], None] | None,
    ) -> None:
        """Close a wait with what has arrived, or as cancelled or timed out. Raises Parked if it is none of these."""
        turn = self._turn
        if turn.is_cancelled(record):
            return
        if BRANCH.get().frozen:
            turn.park(record)
        correlation, types = wait_address(turn.run, record.name)
        for arrival in await rows.arrivals(turn.tx.rows, turn.run, correlation, types):
            turn.seen.add(arrival.seq)
            if arrival.id in turn.taken or (meant is not None and not meant(arrival)):
                continue
            taken = Taken(arrival.id, arrival.type, arrival.version, msgspec.Raw(arrival.data))
            turn.taken.add(arrival.id)
            turn.change(record, Mark.DONE, result=msgspec.json.encode(taken))
            return
        if record.due_ms is None or record.due_ms > turn.now_ms:
            turn.park(record)
        turn.change(record, Mark.TIMED_OUT)
        if unanswered is not None:
            unanswered()

    # ------------------------------------------------------------------ several at once, and others

    async def gather(
        self,
        *calls: Awaitable[Any],
        need: int | None = None,
        best_effort: bool = False,
        tolerate: int = 0,
        limit: int | None = None,
        name: str | None = None,
    ) -> list[Any]:
        """The results of *calls*, in their order; each is a call of this object, or a function of such calls.

        All of them have to end well, or with *need* so many: the places of the others then hold `UNFINISHED`.
        With *best_effort* all have to end, and an error stands in the place of its result; with *tolerate* so many
        errors at most. Raises the first error if too many fail. At most *limit* of them are under way at once.
        *name* is shown.
        """
        tolerated = len(calls) if best_effort else tolerate
        return await gathering.gather(self._turn, calls, gathering.Terms(need, tolerated, limit, name))

    async def child(self, workflow: Startable, event: object) -> Any:
        """Run another workflow of this service on *event*, and return what it returned.

        A cancellation of this run cancels it too. Raises ChildFailed if it did not complete.
        """
        return await await_child(self._turn, workflow, event)

    # ------------------------------------------------------------------ recorded at once

    def publish(self, event: object) -> str:
        """Publish *event*, once; returns its id. Raises InvalidEvent, NotAnnotated."""
        return self._publish(event)[1]

    def _publish(self, event: object, within: timedelta | None = None) -> tuple[str, str]:
        """The position and the id of the event that `publish` publishes."""
        turn = self._turn
        name = event_type_of(event).name
        position, record = turn.find(Kind.PUBLISH, name)
        if record is None:
            record = turn.close(position, Kind.PUBLISH, name, write(turn.publish(event, within).id))
        return position, msgspec.json.decode(record.result or b"null", type=str)

    def _sent(self, command: object, command_id: str) -> Envelope:
        """The envelope of a command that was sent, as far as its answers are addressed by it."""
        turn, event_type = self._turn, event_type_of(command)
        return Envelope(
            command_id,
            event_type.name,
            event_type.version,
            event_type.key_of(command),
            turn.spec.service,
            turn.clock.now_ms(),
            b"",
            turn.run.correlation_id,
        )

    def now(self) -> datetime:
        """The time, in UTC, as it was at the first passage."""
        clock = self._turn.clock
        return datetime.fromtimestamp(self._value("now", clock.now_ms) / 1000, UTC)

    def random(self) -> float:
        """A number in [0, 1), the same in every passage."""
        return float(self._value("random", self._turn.clock.random))

    def uuid(self) -> str:
        """A fresh UUIDv7, the same in every passage."""
        return str(self._value("uuid", self._turn.clock.new_id))

    def version(self, change: str) -> bool:
        """Whether this run passes here with the *change*: not if it has gone further on the code before it.

        ``if wf.version("check-stock"): await wf.step(check)`` adds a step that runs begun earlier do without.
        """
        turn = self._turn
        branch = BRANCH.get()
        position = f"version:{branch.prefix}{change}"
        if position not in turn.journal and branch.goes_on_in(turn.journal):
            return False
        _, record = turn.find(Kind.VERSION, change, position)
        if record is None:
            turn.close(position, Kind.VERSION, change)
        return True

    @property
    def state(self) -> Any:
        """What the run shows of itself: any JSON value, None at first. It can be seen and searched from outside."""
        return self._turn.state

    @state.setter
    def state(self, value: Any) -> None:
        turn = self._turn
        position, record = turn.find(Kind.STATE, "state")
        if record is None:
            data = write(value)
            record = turn.close(position, Kind.STATE, "state", data)
            turn.run.user_state = data
        turn.state = msgspec.json.decode(record.result or b"null")

    def show(self, value: Any) -> None:
        """Show *value* of the run, as `state` does, but record nothing: the same is shown whenever it passes here."""
        self._turn.run.user_state = write(value)

    def _value(self, name: str, make: Callable[[], Any]) -> Any:
        position, record = self._turn.find(Kind.VALUE, name)
        if record is None:
            record = self._turn.close(position, Kind.VALUE, name, write(make()))
        return msgspec.json.decode(record.result or b"null")


def _cancelled(turn: Turn) -> WorkflowCancelled:
    return WorkflowCancelled(f"cancelled: {turn.run.cancelled}", where=turn.spec.name)


def _span_ms(turn: Turn, duration: timedelta | datetime) -> int:
    """How long to sleep."""
    if isinstance(duration, timedelta):
        return max(0, milliseconds(duration))
    if duration.tzinfo is None:
        raise DeclarationError("a time to sleep until needs a zone", where=turn.spec.name, mend="tzinfo=UTC")
    return max(0, round(duration.timestamp() * 1000) - turn.clock.now_ms())
