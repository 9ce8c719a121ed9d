"""What a test may claim of a world. A claim that does not hold fails with the timeline."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

from antiphon.errors import DeclarationError
from antiphon.model.delivery import Status
from antiphon.model.events import event_type_of
from antiphon.model.views import DeliveryView, LoggedView, Trace, run_of
from antiphon.model.workflows import Kind, Mark, RunState, RunView
from antiphon.policy.words import plain, shortened
from antiphon.testing.record import Record, Where
from antiphon.workflow import WorkflowHandle

E = TypeVar("E")
Function = Callable[..., Any]
#: A handler, as its function or its full name (``"payment.charge"``).
Handler = str | Function
#: What undoes something: a handler, the undo of a workflow's step, or the class of the event that is published.
Undo = Handler | type[Any]

_SHOWN = 5


class _Moment(NamedTuple):
    """When something happened; *nr* orders what one run has done in the same millisecond."""

    ms: int
    nr: int = 0

    def may_precede(self, other: _Moment) -> bool:
        """Whether *other* has not happened before this."""
        return self < other if self.nr and other.nr else self.ms <= other.ms


class WorldFailure(AssertionError):
    """A claim that does not hold; its text ends with the timeline."""


class Assertions(ABC):
    """The claims. They only look: nothing has to be awaited."""

    @abstractmethod
    def record(self) -> Record:
        """What has happened so far."""

    @abstractmethod
    def timeline(self) -> str:
        """What has happened so far, as text."""

    @abstractmethod
    def is_step(self, handler: Handler) -> bool:
        """Whether it is no handler, but a function that a workflow may have as a step."""

    @abstractmethod
    def handler_name(self, handler: Handler) -> str:
        """The full name of a handler. Raises DeclarationError if the app has none such."""

    def assert_published(self, cls: type[E], n: int | None = 1, *, where: Where[E] | None = None) -> list[E]:
        """*n* events of *cls* (None: one or more) were published that fit *where*; returns them, oldest first."""
        record = self.record()
        found = [event for _, event in record.published(cls, where)]
        if n is None and not found:
            self._fail(_not_published(record, cls, where, "one or more times"))
        if n is not None and len(found) != n:
            self._fail(_not_published(record, cls, where, f"{n} times" if n != 1 else "once"))
        return found

    def assert_not_published(self, cls: type[E], *, where: Where[E] | None = None) -> None:
        """No event of *cls* was published that fits *where*."""
        self.assert_published(cls, 0, where=where)

    def assert_dead_letter(
        self, what: Handler | type[Any], *, reason: str | None = None, n: int | None = 1
    ) -> list[DeliveryView]:
        """*n* dead letters (None: one or more) of a handler, or of an event class; returns them.

        *reason* is part of the reason, or of the last error's type or message.
        """
        letters = self.record().dead_letters()
        name = _type_name(what)
        if name is not None:
            ids = {event.id for event in self.record().events if event.type == name}
            mine = [letter for letter in letters if letter.event_id in ids]
        else:
            name = self.handler_name(what)
            mine = [letter for letter in letters if letter.handler == name]
        found = [letter for letter in mine if reason is None or reason in _why(letter)]
        if (n is None and not found) or (n is not None and len(found) != n):
            wanted = "one or more" if n is None else str(n)
            because = "" if reason is None else f" with {reason!r} in their reason or error"
            self._fail(
                f"{name} has {len(found)} dead letters{because}, not {wanted}",
                [f"{letter.handler} {letter.status}: {_why(letter)}" for letter in mine or letters],
                "its dead letters" if mine else "all dead letters",
            )
        return found

    def assert_no_dead_letters(self) -> None:
        """Nothing was set aside."""
        letters = self.record().dead_letters()
        if letters:
            lines = [f"{letter.handler} {letter.status}: {_why(letter)}" for letter in letters]
            are = "is 1 dead letter" if len(letters) == 1 else f"are {len(letters)} dead letters"
            self._fail(f"there {are}", lines, "it is" if len(letters) == 1 else "they are")

    def assert_compensated(self, what: type[E], *, by: Undo | Sequence[Undo], where: Where[E] | None = None) -> None:
        """Each *what* (at least one, that fits *where*) was followed by what undoes it.

        *what* is the event that says what failed, or the step that was undone. *by* is an event that followed from
        it, near or far; a handler that completed on it or on what followed from it; or the undo of a step of a
        workflow's run that it began or moved. Several have to have happened in that order.
        """
        record = self.record()
        undoing = [by] if isinstance(by, str | type) or callable(by) else list(by)
        found = record.published(what, where)
        if not found:
            self._fail(_not_published(record, what, where, "one or more times"))
        for view, event in found:
            trace = record.trace_of(view.id)
            last = _Moment(view.time_ms)
            for before, undo in zip([None, *undoing], undoing, strict=False):
                moments = [moment for moment in self._moments(undo, trace, view) if last.may_precede(moment)]
                if not moments:
                    order = "" if before is None else f" after {_named(before)}"
                    self._fail(f"{_short(event)} was not undone: {_named(undo)} did not follow from it{order}")
                last = min(moments)

    def assert_run(self, workflow: Handler, *, state: str, key: str | None = None) -> RunView:
        """The newest run of *workflow*, of that *key* if it is said, is in that *state*; returns it."""
        name = self.handler_name(workflow)
        wanted = RunState(state)
        of_key = "" if key is None else f" of key {key!r}"
        found = [run for run in self.record().runs if run.workflow == name and key in (None, run.key)]
        if not found:
            self._fail(f"{name} has no run{of_key}")
        run = max(found, key=lambda each: (each.started_ms, each.id))
        if run.state is not wanted:
            why = run.waiting or run.error
            self._fail(f"the run of {name}{of_key} is {run.state}{f' ({why})' if why else ''}, not {wanted}")
        return run

    def _moments(self, undo: Undo, trace: Trace, start: LoggedView) -> list[_Moment]:
        """When, in what followed from *start*, *undo* happened."""
        following = {start.id}
        for node in trace.nodes:
            if node.event.causation_id in following:
                following.add(node.event.id)
        nodes = [node for node in trace.nodes if node.event.id in following]
        type_ = _type_name(undo)
        if type_ is not None:
            events = [node.event for node in nodes if node.event.type == type_]
            return [_Moment(event.time_ms) for event in events if event.id != start.id]
        if self.is_step(undo):
            moved = {run_of(node.event) for node in nodes}
            records = [record for run in trace.runs if run.id in moved for record in run.journal]
            undone = [record for record in records if record.kind is Kind.UNDO and record.mark is Mark.DONE]
            return [_Moment(record.at_ms, record.nr) for record in undone if record.name == _named(undo)]
        name = self.handler_name(undo)
        return [
            _Moment(delivery.updated_ms)
            for node in nodes
            for delivery in node.deliveries
            if delivery.handler == name and delivery.status is Status.COMPLETED
        ]

    def _fail(self, what: str, facts: Sequence[str] = (), title: str = "") -> None:
        lines = [what]
        if facts:
            lines += [f"{title}:", *(f"  {plain(fact)}" for fact in facts)]
        raise WorldFailure("\n".join([*lines, "", self.timeline()]))


def _type_name(what: object) -> str | None:
    """The event type of a class; None for a handler."""
    if isinstance(what, str) or not isinstance(what, type):
        return None
    return event_type_of(what).name


def _not_published(record: Record, cls: type[Any], where: Where[Any] | None, wanted: str) -> str:
    name = event_type_of(cls).name
    every = [event for _, event in record.published(cls)]
    if where is None:
        counts = Counter(event.type for event in record.events)
        others = ", ".join(f"{count} x {type_}" for type_, count in counts.items())
        return f"{name} was published {_times(len(every))}, not {wanted}; published were: {others or 'no events'}"
    fitting = [event for event in every if where(event)]
    shown = [_short(event) for event in every if event not in fitting][:_SHOWN]
    others = f"; others are: {'; '.join(shown)}" if shown else ""
    return f"{name} that fits was published {_times(len(fitting))}, not {wanted}, of {len(every)}{others}"


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def _why(letter: DeliveryView) -> str:
    """The reason and the last error of a dead letter."""
    reason = letter.reason or ""
    last = next((each for each in reversed(letter.history) if each.error_type), None)
    if last is None or (last.message or "") in reason:
        return reason
    return f"{reason} | {last.error_type}: {last.message}"


def _short(event: object) -> str:
    return shortened(repr(event), 160) or ""


def _named(undo: Undo) -> str:
    return undo if isinstance(undo, str) else getattr(undo, "__name__", repr(undo))


def handler_named(handler: Handler, functions: dict[str, Function]) -> str:
    """The full name of *handler*, of the *functions* by full name. Raises DeclarationError."""
    if isinstance(handler, WorkflowHandle):
        handler = handler.name
    if isinstance(handler, str):
        found = [name for name in functions if handler == name]
    else:
        found = [name for name, fn in functions.items() if fn is handler]
    if len(found) == 1:
        return found[0]
    shown = handler if isinstance(handler, str) else getattr(handler, "__qualname__", repr(handler))
    if found:
        raise DeclarationError(f"{shown} is several handlers", mend=f"Name one of {', '.join(found)}")
    raise DeclarationError(f"the app has no handler {shown}", mend=f"It has {', '.join(functions) or 'none'}")
