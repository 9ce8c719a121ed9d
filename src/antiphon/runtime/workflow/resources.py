"""What a Task calls: a function, which becomes a step, or an event class, which is published."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from typing import Any, Protocol, cast

import msgspec

from antiphon.errors import DeclarationError, StateFailed
from antiphon.model.events import EventType, event_type_of
from antiphon.policy import signatures
from antiphon.policy.asl.failures import HEARTBEAT_TIMEOUT
from antiphon.runtime.transaction import Transaction
from antiphon.runtime.workflow.steps import closure


class Resource(Protocol):
    """What stands behind the name of a resource."""

    #: The function of a step: takes the input of the Task, and the seconds in which it has to be heard of.
    call: Callable[..., Any]


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


class Published:
    """A Task that publishes an event of a class, made of its input."""

    def __init__(self, event_type: EventType) -> None:
        self.event_type = event_type

        async def publish(value: Any, _beat_s: float | None, tx: Transaction) -> Any:
            event = event_type.decode(msgspec.json.encode(value), event_type.version)
            return {"EventId": tx.publish(event)}

        self.call: Callable[..., Any] = publish


class Called:
    """A Task that calls a function with its input, as the function's first parameter is annotated."""

    def __init__(self, fn: Callable[..., Any]) -> None:
        where = getattr(fn, "__qualname__", repr(fn))
        hints = signatures.resolve(fn, closure(fn), where)
        given = signatures.injected(fn, hints, where)
        names = {name for name, _ in given}
        own = [
            each
            for each in inspect.signature(fn).parameters.values()
            if each.name not in names and hints.get(each.name) is not Heartbeat
        ]
        needed = [each.name for each in own[1:] if each.default is each.empty]
        if needed or any(each.kind in (each.VAR_KEYWORD, each.KEYWORD_ONLY) for each in own[:1]):
            raise DeclarationError(
                f"a Task calls it with one argument, and it takes {', '.join(each.name for each in own)}",
                where=where,
                mend="Take the input of the Task, and what is given by annotation",
            )
        self.fn = fn
        self.takes_input = bool(own)
        self.annotation = hints.get(own[0].name, Any) if own else Any
        self.beats = next((name for name in inspect.signature(fn).parameters if hints.get(name) is Heartbeat), None)
        is_async = inspect.iscoroutinefunction(fn)
        if self.beats is not None and not is_async:
            raise DeclarationError("only an async function has a heartbeat", where=where)
        self.call = cast("Any", self._async_step() if is_async else self._step())
        # So the step is given what the function asks for.
        self.call.__annotations__ = {name: hints[name] for name in names}
        kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.KEYWORD_ONLY)
        self.call.__signature__ = inspect.Signature(
            [inspect.Parameter(name, kinds[0]) for name in ("value", "beat_s")]
            + [inspect.Parameter(name, kinds[1]) for name, _ in given]
        )

    def _arguments(self, value: Any) -> tuple[Any, ...]:
        return (_converted(value, self.annotation),) if self.takes_input else ()

    def _step(self) -> Callable[..., Any]:
        def call(value: Any, _beat_s: float | None, **given: Any) -> Any:
            return self.fn(*self._arguments(value), **given)

        return call

    def _async_step(self) -> Callable[..., Any]:
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


def resource_of(target: Any) -> Resource:
    """What a Task calls that names *target*: a function or an event class. Raises DeclarationError."""
    if isinstance(target, type):
        return Published(event_type_of(target))
    if not callable(target):
        raise DeclarationError(f"{target!r} is neither a function nor an event class", where="resources")
    return Called(target)


def _converted(value: Any, annotation: Any) -> Any:
    """*value* as a parameter is annotated. Raises msgspec.ValidationError, InvalidEvent."""
    if annotation is Any or annotation in (dict, list):
        return value
    if isinstance(annotation, type):
        if (event_type := signatures.event_type_or_none(annotation)) is not None:
            return event_type.decode(msgspec.json.encode(value), event_type.version)
        if hasattr(annotation, "__pydantic_validator__"):
            return annotation.model_validate(value)  # type: ignore[attr-defined]
    return msgspec.convert(value, annotation)
