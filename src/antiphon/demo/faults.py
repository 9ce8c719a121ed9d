"""The demo's application: the example whose handlers fail at times, as handlers do."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from dataclasses import replace
from datetime import timedelta
from functools import wraps
from itertools import count
from typing import Any

from antiphon.app import App
from antiphon.demo.chance import Chance
from antiphon.model.handlers import HandlerSpec

#: A fault that comes back in a second shows the same as one that comes back in five minutes.
_FIRST_RETRY = timedelta(milliseconds=50)
_LONGEST_RETRY = timedelta(seconds=1)
#: Faults are transient here, so nobody has to give up.
_ATTEMPTS = 1_000
#: Five in a row would pause the handler: that is for what is down, not for what stumbles.
_LONGEST_RUN = 4


class TransientFault(Exception):
    """Made up by the demo: something did not answer, and will."""


def made_faulty(app: App, rate: float, chance: Chance) -> App:
    """An app like *app*, of whose attempts the share *rate* fails, before or after the work was done."""
    faulty = copy(app)
    faulty.specs = tuple(
        replace(spec, handlers=tuple(_faulty(handler, rate, chance) for handler in spec.handlers)) for spec in app.specs
    )
    return faulty


def _faulty(handler: HandlerSpec, rate: float, chance: Chance) -> HandlerSpec:
    retry = replace(handler.retry, attempts=_ATTEMPTS, first=_FIRST_RETRY, cap=_LONGEST_RETRY)
    fn = _failing(handler, rate, chance) if rate else handler.fn
    return replace(handler, retry=retry, fn=fn)


def _failing(handler: HandlerSpec, rate: float, chance: Chance) -> Callable[..., Any]:
    name, fn = handler.name, handler.fn
    # A turn of a workflow is the engine's: it does not fail when its work is done.
    before = 0.5 if handler.workflow is None else 1.0
    attempts = count()
    run = 0

    @wraps(fn)
    async def failing(*arguments: Any, **named: Any) -> Any:
        nonlocal run
        draw = chance.of("fault", name, next(attempts)) / rate
        fails = draw < 1 and run < _LONGEST_RUN
        run = run + 1 if fails else 0
        if fails and draw < before:
            raise TransientFault("injected before the work")
        result = await fn(*arguments, **named)
        if fails:
            raise TransientFault("injected after the work, which is undone")
        return result

    return failing
