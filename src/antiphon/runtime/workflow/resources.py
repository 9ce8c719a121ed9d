"""What a Task does: calls a function as a step, publishes an event, or asks another service by a command."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from antiphon.errors import DeclarationError, StateFailed
from antiphon.model.commands import Refused
from antiphon.model.events import EventType, event_type_of
from antiphon.policy import signatures
from antiphon.policy.asl.failures import HEARTBEAT_TIMEOUT
from antiphon.runtime.transaction import Transaction
from antiphon.runtime.workflow.steps import closure
from antiphon.runtime.workflow.undoing import replies_to

_RESULT = "result"


class Heartbeat:
    """Given to a function that has a parameter annotated with it: ``beat()`` says that it is still at work."""

    __slots__ = ("_limit_s", "_timeout")

    def __init__(self, timeout: asyncio.Timeout, limit_s: float | None) -> None:
        self._timeout = timeout
        self._limit_s = limit_s

    def beat(self) -> None:
        """The time in which the function has to be heard of begins anew."""
        if self._limit_s is not None:
            self._timeout.reschedule(asyncio.get_running_loop().time() + self._limit_s)


class Called:
    """A Task that calls a function with its input, as the function's first parameter is annotated.

    *call* is the function of the step; it takes the input, and the seconds in which it has to be heard of. *undo*
    takes the same, and undoes what it has done.
    """

    def __init__(self, fn: Callable[..., Any], undo: Callable[..., Any] | None = None, *, undoes: bool = False) -> None:
        where = getattr(fn, "__qualname__", repr(fn))
        hints = signatures.resolve(fn, closure(fn), where)
        given = {name for name, _ in signatures.injected(fn, hints, where, has_effects=True)}
        parameters = inspect.signature(fn).parameters
        self.beats = next((name for name in parameters if hints.get(name) is Heartbeat), None)
        named = [name for name in parameters if name in given or (undoes and name == _RESULT)]
        own = [each for name, each in parameters.items() if name not in named and name != self.beats]
        self._check(own, where)
        is_async = inspect.iscoroutinefunction(fn)
        if self.beats is not None and not is_async:
            raise DeclarationError("only an async function has a heartbeat", where=where)
        self.call: Any
        self.fn = fn
        self.takes_input = bool(own)
        self.annotation = hints.get(own[0].name, Any) if own else Any
        self.undo = None if undo is None else Called(undo, undoes=True).call
        self.call = self._async_step() if is_async else self._step()
        # What the step is given is what the function asks for.
        self.call.__name__ = getattr(fn, "__name__", "task")
        self.call.__annotations__ = {name: hints[name] for name in given}
        self.call.__signature__ = inspect.Signature(
            [inspect.Parameter(name, inspect.Parameter.POSITIONAL_ONLY) for name in ("value", "beat_s")]
            + [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY) for name in named]
        )

    @staticmethod
    def _check(own: list[inspect.Parameter], where: str) -> None:
        needed = [each.name for each in own[1:] if each.default is each.empty]
        if needed or any(each.kind in (each.VAR_KEYWORD, each.KEYWORD_ONLY) for each in own[:1]):
            raise DeclarationError(
                f"a Task calls it with one argument, and it takes {', '.join(each.name for each in own)}",
                where=where,
                mend="Take the input of the Task, and what is given by annotation",
            )

    def _arguments(self, value: Any) -> tuple[Any, ...]:
        return (_converted(value, self.annotation),) if self.takes_input else ()

    def _step(self) -> Any:
        def call(value: Any, _beat_s: float | None, **given: Any) -> Any:
            return self.fn(*self._arguments(value), **given)

        return call

    def _async_step(self) -> Any:
        async def call(value: Any, beat_s: float | None, **given: Any) -> Any:
            return await self._call_heard(self._arguments(value), given, beat_s)

        return call

    async def _call_heard(self, arguments: tuple[Any, ...], given: dict[str, Any], beat_s: float | None) -> Any:
        """Call it, and end it when it is not heard of in time. Raises StateFailed."""
        if beat_s is None and self.beats is None:
            return await self.fn(*arguments, **given)
        try:
            async with asyncio.timeout(beat_s) as clock:
                if self.beats is not None:
                    given = {**given, self.beats: Heartbeat(clock, beat_s)}
                return await self.fn(*arguments, **given)
        except TimeoutError as error:
            if not clock.expired():
                raise
            raise StateFailed(HEARTBEAT_TIMEOUT, f"it was not heard of for {beat_s:g} s") from error


class Published(Called):
    """A Task that publishes an event, made of its input."""

    def __init__(self, event_type: EventType, undo: Callable[..., Any] | None = None) -> None:
        async def publish(value: Any, tx: Transaction) -> Any:
            return {"EventId": tx.publish(_event(event_type, value))}

        super().__init__(publish, undo)
        self.publishes = (event_type,)


class Asked:
    """A Task that sends a command made of its input, and whose result is the answer.

    *undo* is the command that takes it back, made of the same input.
    """

    def __init__(self, command: EventType, undo: EventType | None = None) -> None:
        self.command = command
        self.undo = undo
        self.replies = (*(each.cls for each in command.replies), Refused)
        self.publishes = (command,) if undo is None else (command, undo)
        takers = self.replies if undo is None else (*self.replies, *replies_to(undo.cls))
        self.awaits = tuple(event_type_of(each) for each in takers)

    def questions(self, value: Any) -> tuple[object, object | None]:
        """The command for *value*, and that which takes it back. Raises InvalidEvent."""
        return _event(self.command, value), None if self.undo is None else _event(self.undo, value)


Resource = Called | Asked


def resources_of(targets: Mapping[str, Any], undos: Mapping[str, Any]) -> dict[str, Resource]:
    """What each Task does that names one of *targets*. Raises DeclarationError."""
    if unknown := undos.keys() - targets.keys():
        raise DeclarationError(f"undo names {', '.join(sorted(unknown))}, which is no resource", where="state machine")
    return {name: _resource_of(name, target, undos.get(name)) for name, target in targets.items()}


def _resource_of(name: str, target: Any, undo: Any) -> Resource:
    kind = event_type_of(target) if isinstance(target, type) else None
    if kind is not None and kind.target is not None:
        undone_by = None if undo is None else event_type_of(undo)
        return Asked(kind, undone_by)
    if undo is not None and not inspect.isroutine(undo):
        raise DeclarationError(f"the undo of {name} is no function", where="state machine")
    if kind is not None:
        return Published(kind, undo)
    if not inspect.isroutine(target):
        raise DeclarationError(f"{name} is {target!r}: neither a function nor an event class", where="state machine")
    return Called(target, undo)


def _event(event_type: EventType, value: Any) -> Any:
    return event_type.decode(msgspec.json.encode(value), event_type.version)


def _converted(value: Any, annotation: Any) -> Any:
    """*value* as a parameter is annotated. Raises msgspec.ValidationError, InvalidEvent."""
    if annotation in (Any, dict, list):
        return value
    if isinstance(annotation, type):
        if (event_type := signatures.event_type_or_none(annotation)) is not None:
            return _event(event_type, value)
        if hasattr(annotation, "__pydantic_validator__"):
            return annotation.model_validate(value)  # type: ignore[attr-defined]
    return msgspec.convert(value, annotation)
