"""Watches what handlers, and steps of workflows, call outside by `Effects.once`: who stands outside sees every call."""

from __future__ import annotations

import functools
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from antiphon.runtime.effects import Effects
from antiphon.simulate.ledger import Ledger

T = TypeVar("T")


class WatchedEffects:
    """The effects of one attempt, each call of which the ledger gets to know: of *handler* on an event, or of the
    step at a *place* of the workflow's run *event_id*."""

    def __init__(self, effects: Effects, ledger: Ledger, handler: str, event_id: str, place: str = "") -> None:
        self._effects = effects
        self._ledger = ledger
        self._what = (handler, event_id)
        self._place = place

    def key(self, name: str) -> str:
        """See `Effects.key`."""
        return self._effects.key(name)

    async def once(
        self,
        name: str,
        fn: Callable[..., Coroutine[Any, Any, T]],
        *args: Any,
        verify: Callable[..., Coroutine[Any, Any, T | None]] | None = None,
        idempotent: bool = False,
        not_done: tuple[type[Exception], ...] = (),
    ) -> T:
        """See `Effects.once`."""
        calls = self._ledger.calls.get((*self._what, f"{self._place}{name}"), [])
        # A call that began while another attempt was under way could not know of it.
        may_repeat = idempotent or not any(call.may_be_done for call in calls)

        @functools.wraps(fn)
        async def called(*given: Any) -> T:
            call = self._ledger.calls_out(*self._what, f"{self._place}{name}", blindly=not may_repeat)
            try:
                result = await fn(*given)
            except not_done:
                call.outcome = "not done"
                raise
            except BaseException:
                call.outcome = "unknown"
                raise
            call.outcome = "done"
            return result

        async def verified(*given: Any) -> T | None:
            nonlocal may_repeat
            assert verify is not None
            found = await verify(*given)
            may_repeat = may_repeat or found is None
            return found

        return await self._effects.once(
            name,
            called,
            *args,
            verify=None if verify is None else verified,
            idempotent=idempotent,
            not_done=not_done,
        )
