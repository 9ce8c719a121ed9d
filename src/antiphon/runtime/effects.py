"""Calls to the outside world from a handler: each takes effect once, or somebody is told that nobody knows."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import msgspec

from antiphon.errors import AmbiguousEffect, AntiphonError, DeclarationError
from antiphon.model.effects import Effect, EffectState
from antiphon.policy.effects import idempotency_key, next_step
from antiphon.policy.words import describe
from antiphon.ports import Clock, Lease, Unit
from antiphon.runtime.transaction import Transaction

T = TypeVar("T")


class Effects:
    """The calls of one attempt, of a handler or of a workflow's step. The intent of each is durable before it is made.

    Its outcome is recorded with the attempt's transaction, or if that fails, with the failure. A crash in between
    leaves the intent, and the next attempt verifies, repeats what may be repeated, or parks.
    """

    def __init__(self, clock: Clock, lease: Lease, event_id: str, tx: Transaction, place: str = "") -> None:
        """*event_id* is the event's, or the run's, in which *place* tells the calls of its steps apart."""
        self._store = tx.store
        self._clock = clock
        self._lease = lease
        self._event_id = event_id
        self._tx = tx
        self._place = place
        self._known: dict[str, Effect] = {}
        self._unrecorded: dict[str, Effect] = {}
        self._calling: set[str] = set()

    def key(self, name: str) -> str:
        """The idempotency key of the call *name*: the same in every attempt at this event, or step."""
        return idempotency_key(self._event_id, self._lease.handler, f"{self._place}{name}")

    async def once(
        self,
        name: str,
        fn: Callable[..., Coroutine[Any, Any, T]],
        *args: Any,
        verify: Callable[..., Coroutine[Any, Any, T | None]] | None = None,
        idempotent: bool = False,
        not_done: tuple[type[Exception], ...] = (),
    ) -> T:
        """Call ``fn(*args)`` so that it takes effect once; returns its result, in later attempts the one kept.

        *name* tells the calls of one handler apart. The result has to be JSON; it is given back as what the return
        annotation of *fn* says. After an unknown outcome (a crash, an error, a time-out) the next attempt asks
        ``verify(*args)``, which looks on the other side and returns what *fn* would have returned, or None if it
        took no effect, and so may be made. Without it the event is parked: a dead letter whose effect is AMBIGUOUS,
        for a person to look into.

        *idempotent*: the other side recognises the repetition of a call by its `key`, so it is simply repeated.
        *not_done*: errors that say for certain that nothing was done.
        Raises what *fn* raises, AmbiguousEffect, and DeclarationError after the handler has written: call first,
        write afterwards.
        """
        self._check(name, fn)
        name = f"{self._place}{name}"
        self._calling.add(name)
        try:
            known = self._known.get(name) or await self._store.read_effect(self._event_id, self._lease.handler, name)
            step = next_step(known, can_verify=verify is not None, idempotent=idempotent)
            if step == "verify" and verify is not None and known is not None:
                seen = await verify(*args)
                if seen is not None:
                    self._keep(known, EffectState.DONE, result=seen)
                    return seen
                step = "call"
            if step == "give result" and known is not None:
                kept: T = self._result(known, fn)
                return kept
            if step == "park" and known is not None:
                raise self._ambiguous(known, known.error or "an earlier attempt ended before its outcome was known")
            intent = await self._intend(name, known)
            made: T = await self._call(intent, fn, args, verify is not None or idempotent, not_done)
            return made
        finally:
            self._calling.discard(name)

    async def record(self, unit: Unit) -> None:
        """Write the outcomes that are not recorded yet, in a transaction of the runtime's."""
        for effect in self._unrecorded.values():
            await unit.put_effect(self._lease, effect)
        self._unrecorded.clear()

    async def _intend(self, name: str, known: Effect | None) -> Effect:
        """Record that the call is about to be made; durable on return. What was done before goes with it."""
        now = self._clock.now_ms()
        effect = Effect(
            event_id=self._event_id,
            handler=self._lease.handler,
            name=name,
            key=idempotency_key(self._event_id, self._lease.handler, name),
            calls=1 if known is None else known.calls + 1,
            created_ms=now if known is None else known.created_ms,
            updated_ms=now,
        )
        recorded = dict(self._unrecorded)
        async with self._store.unit() as unit:
            for outcome in recorded.values():
                await unit.put_effect(self._lease, outcome)
            await unit.put_effect(self._lease, effect)
        for done, outcome in recorded.items():
            if self._unrecorded.get(done) is outcome:
                del self._unrecorded[done]
        return effect

    async def _call(
        self,
        effect: Effect,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        can_go_on: bool,
        not_done: tuple[type[Exception], ...],
    ) -> Any:
        try:
            result = await fn(*args)
        except not_done as error:
            self._keep(effect, EffectState.NOT_DONE, error=describe(error))
            raise
        except Exception as error:
            if can_go_on:
                self._keep(effect, EffectState.INTENDED, error=describe(error))
                raise
            raise self._ambiguous(effect, describe(error)) from error
        self._keep(effect, EffectState.DONE, result=result)
        if self._known[effect.name].result is None:
            return self._result(self._known[effect.name], fn)  # says why there is none
        return result

    def _keep(self, effect: Effect, state: EffectState, *, result: Any = None, error: str | None = None) -> None:
        """Remember an outcome until it is recorded."""
        text = None
        if state is EffectState.DONE:
            try:
                text = msgspec.json.encode(result)
            except (TypeError, ValueError, RecursionError) as reason:
                error = f"its result cannot be kept as JSON: {reason}"
        effect = msgspec.structs.replace(effect, state=state, result=text, error=error, updated_ms=self._clock.now_ms())
        self._known[effect.name] = self._unrecorded[effect.name] = effect

    def _ambiguous(self, effect: Effect, why: str) -> AmbiguousEffect:
        self._keep(effect, EffectState.AMBIGUOUS, error=why)
        return AmbiguousEffect(
            f"whether {effect.name!r} took effect is not known: {why}",
            where=effect.handler,
            mend=f"Find out, then: antiphon effect resolve {effect.key} --done or --not-done",
        )

    def _result(self, effect: Effect, fn: Callable[..., Any]) -> Any:
        if effect.result is None:
            raise AntiphonError(
                f"effect {effect.name!r} was done, but {effect.error or 'its result is not known'}",
                where=effect.handler,
                mend=f"Say it: antiphon effect resolve {effect.key} --done --result JSON",
            )
        try:
            return msgspec.json.decode(effect.result, type=_result_type(fn))
        except msgspec.ValidationError as error:
            raise AntiphonError(
                f"the result of effect {effect.name!r} is not what {fn.__qualname__} returns: {error}",
                where=effect.handler,
                mend=f"Mend it: antiphon effect resolve {effect.key} --done --result JSON",
            ) from error

    def _check(self, name: str, fn: Callable[..., Any]) -> None:
        if not inspect.iscoroutinefunction(fn):
            raise DeclarationError(f"effect {name!r} calls {fn!r}, which is no async def", where=self._lease.handler)
        if not name or f"{self._place}{name}" in self._calling:
            what = f"effect {name!r} is under way already" if name else "an effect needs a name"
            raise DeclarationError(what, where=self._lease.handler, mend="Give each call a name of its own")
        if self._tx.wrote:
            raise DeclarationError(
                f"effect {name!r} comes after the handler has written, with the writer's lock held",
                where=self._lease.handler,
                mend="Call first, write afterwards",
            )


def _result_type(fn: Callable[..., Any]) -> Any:
    """What *fn* says that it returns; anything, if that cannot be resolved."""
    try:
        return typing.get_type_hints(fn).get("return", Any)
    except (NameError, TypeError, AttributeError):
        return Any
