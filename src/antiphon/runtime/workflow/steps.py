"""Calls a step's function: what it is given by annotation, its time limit, its result as JSON and back."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from datetime import timedelta
from functools import lru_cache
from typing import Any

import msgspec

from antiphon.errors import DeclarationError, HandlerTimeout
from antiphon.policy import signatures
from antiphon.ports import Clock
from antiphon.runtime.blocking import SyncTransaction
from antiphon.runtime.invoke import DEFAULT_TIMEOUT, Suspended
from antiphon.runtime.transaction import Transaction
from antiphon.runtime.workflow.turn import Turn

_RESULT = "result"


class Callee:
    """What is known of a step's function, once."""

    def __init__(self, fn: Callable[..., Any]) -> None:
        where = getattr(fn, "__qualname__", repr(fn))
        hints: Mapping[str, Any] = signatures.resolve(fn, closure(fn), where) if inspect.isroutine(fn) else {}
        self.fn = fn
        self.name: str | None = getattr(fn, "__name__", None)
        self.given = signatures.injected(fn, hints, where, has_effects=True) if hints else ()
        self.has_effects = any(kind == "effects" for _, kind in self.given)
        self.session = next((name for name, kind in self.given if kind == "session"), None)
        self.is_async = inspect.iscoroutinefunction(fn)
        self.takes_result = inspect.isroutine(fn) and _RESULT in inspect.signature(fn).parameters
        self._only_tx = self.given[0][0] if len(self.given) == 1 and self.given[0][1] == "transaction" else None
        returned = hints.get("return", Any)
        self._decoder = msgspec.json.Decoder(returned if returned is not None else None, dec_hook=_built)

    def read(self, data: bytes | None) -> Any:
        """The result in *data*, as the function is annotated to return it."""
        return None if data is None or data == b"null" else self._decoder.decode(data)

    def arguments(self, tx: Transaction) -> dict[str, Any]:
        """What the runtime gives it."""
        if not self.given:
            return {}
        if self._only_tx is not None:
            return {self._only_tx: tx}
        given: dict[str, Any] = {}
        for name, kind in self.given:
            if kind == "transaction":
                given[name] = tx
            elif kind == "sync_transaction":
                given[name] = SyncTransaction(tx, asyncio.get_running_loop())
            elif kind == "effects":
                given[name] = tx.effects
            else:
                given[name] = None  # a session: it is opened where the step is called
        return given


@lru_cache(maxsize=4096)  # functions made anew in every turn must not be kept for ever
def callee(fn: Callable[..., Any]) -> Callee:
    """What is known of *fn*. Raises DeclarationError for an annotation that cannot be resolved."""
    return Callee(fn)


def write(value: Any) -> bytes:
    """*value* as JSON. Raises DeclarationError for what has no JSON form."""
    if value is None:
        return b"null"
    try:
        return _encoder.encode(value)
    except (TypeError, ValueError) as error:
        raise DeclarationError(
            f"{type(value).__qualname__} has no JSON form ({error})",
            where="workflow",
            mend="Return or keep plain values, structs, dataclasses or Pydantic models",
        ) from error


async def begin(
    step: Callee, args: tuple[Any, ...], named: Mapping[str, Any], tx: Transaction, clock: Clock
) -> tuple[Any, Awaitable[Any] | None]:
    """Run the step in *tx* until it ends or awaits something: its result, or what is left to be awaited."""
    given = step.arguments(tx)
    if named:
        given = {**given, **named}
    if not step.is_async:
        return None, clock.run_blocking(lambda: step.fn(*args, **given))
    coroutine = step.fn(*args, **given) if step.session is None else _with_session(step, args, given, tx)
    try:
        waiting = coroutine.send(None)
    except StopIteration as end:
        return end.value, None
    suspended = Suspended(coroutine, waiting)
    if await suspended.while_busy(tx):
        return suspended.result, None
    return None, suspended


async def _with_session(step: Callee, args: tuple[Any, ...], given: dict[str, Any], tx: Transaction) -> Any:
    from antiphon.store.sqlite.sessions import Sessions

    async with Sessions()(await tx.unit()) as session:
        result = await step.fn(*args, **{**given, str(step.session): session})
        await session.commit()
    return result


async def go_outside(turn: Turn, call: Awaitable[Any], step: Callee, limit: timedelta | None) -> Any:
    """The result of a step that awaits the outside, which it does without the batch's lock. Raises HandlerTimeout."""
    await turn.leave_batch()
    limit_s = (limit or DEFAULT_TIMEOUT).total_seconds()
    try:
        async with asyncio.timeout(limit_s) as clock:
            return await call
    except TimeoutError as error:
        if not clock.expired():
            raise
        raise HandlerTimeout(
            f"did not end within {limit_s:g} s", where=f"step {step.name}", mend="Raise its timeout="
        ) from error


async def leave(turn: Turn) -> None:
    """Go on outside the batch: what awaits the outside by way of other transactions cannot begin within."""
    await turn.leave_batch()
    if turn.tx.attached:
        await asyncio.sleep(0)


def closure(fn: Callable[..., Any]) -> Mapping[str, Any]:
    """The names that a function inside a function can mean in its annotations; what is assigned later is no class."""
    plain = inspect.unwrap(fn)
    code, cells = getattr(plain, "__code__", None), getattr(plain, "__closure__", None)
    if code is None or not cells:
        return {}
    found: dict[str, Any] = {}
    for name, cell in zip(code.co_freevars, cells, strict=True):
        with suppress(ValueError):  # the cell is empty as yet
            found[name] = cell.cell_contents
    return found


def _plain(value: Any) -> Any:
    """A Pydantic model as plain JSON values."""
    if hasattr(value, "__pydantic_validator__"):
        return value.model_dump(mode="json")
    raise TypeError(f"no JSON form of {type(value).__qualname__}")


def _built(kind: type, value: Any) -> Any:
    """A Pydantic model of plain JSON values."""
    if hasattr(kind, "__pydantic_validator__"):
        return kind.model_validate(value)  # type: ignore[attr-defined]
    raise TypeError(f"no way from JSON to {kind.__qualname__}")


_encoder = msgspec.json.Encoder(enc_hook=_plain)
