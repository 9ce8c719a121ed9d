"""The demo's application: the flight booking whose handlers fail at times, as handlers do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from functools import cached_property, wraps
from itertools import count
from typing import Any

from antiphon.app import App
from antiphon.demo.chance import Chance
from antiphon.model.handlers import HandlerSpec, ServiceSpec

#: A fault that comes back in a second shows the same as one that comes back in five minutes.
_FIRST_RETRY = timedelta(milliseconds=50)
_LONGEST_RETRY = timedelta(seconds=1)
#: Faults are transient here, so nobody has to give up.
_ATTEMPTS = 1_000


class TransientFault(Exception):
    """Made up by the demo: something did not answer, and will."""


class FaultyApp(App):
    """The services of *app*, of whose attempts the share *rate* fails, before or after the work was done."""

    def __init__(self, app: App, rate: float, chance: Chance) -> None:
        super().__init__(*app.services.values(), name=app.name, own_stores=app.own_stores, retention=app.retention)
        self._rate = rate
        self._chance = chance

    @cached_property
    def specs(self) -> tuple[ServiceSpec, ...]:
        """The specs of the services, their handlers made faulty and their retries short."""
        return tuple(
            replace(spec, handlers=tuple(self._faulty(handler) for handler in spec.handlers))
            for spec in self._declared()
        )

    def _faulty(self, handler: HandlerSpec) -> HandlerSpec:
        retry = replace(handler.retry, attempts=_ATTEMPTS, first=_FIRST_RETRY, cap=_LONGEST_RETRY)
        if not self._rate:
            return replace(handler, retry=retry)
        return replace(handler, retry=retry, fn=self._failing(handler.name, handler.fn))

    def _failing(self, name: str, fn: Callable[..., Any]) -> Callable[..., Any]:
        attempts = count()

        @wraps(fn)
        async def faulty(*arguments: Any, **named: Any) -> Any:
            draw = self._chance.of("fault", name, next(attempts)) / self._rate
            if draw < 0.5:
                raise TransientFault("injected before the work")
            result = await fn(*arguments, **named)
            if draw < 1:
                raise TransientFault("injected after the work, which is undone")
            return result

        return faulty
