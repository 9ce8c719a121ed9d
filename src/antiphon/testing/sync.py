"""Tests written as ``async def`` for runners that know nothing of it."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from functools import wraps
from typing import TYPE_CHECKING, Any

from antiphon.errors import DeclarationError

if TYPE_CHECKING:
    from antiphon.app import App

Test = Callable[..., Awaitable[None]]


def in_world(app: App | Callable[[], App], **options: Any) -> Callable[[Test], Callable[..., None]]:
    """Run an ``async def`` test inside ``app.test(**options)``, in an event loop of its own.

    The test's parameter ``world`` is the world; all others stay, for fixtures and parametrization. What comes
    out is a plain function, which every runner can call, also with pytest-asyncio or anyio beside it. *app* may be
    a function that makes one. Raises DeclarationError for a function that is no ``async def`` with a ``world``.
    """

    def decorate(test: Test) -> Callable[..., None]:
        signature = inspect.signature(test)
        if not inspect.iscoroutinefunction(test) or "world" not in signature.parameters:
            raise DeclarationError("in_world(...) goes above an async def that takes a world", where=test.__qualname__)

        place = list(signature.parameters).index("world")

        async def run(*args: Any, **kwargs: Any) -> None:
            made = app() if inspect.isroutine(app) else app
            async with made.test(**options) as world:  # type: ignore[union-attr]
                if len(args) <= place:
                    await test(*args, world=world, **kwargs)
                else:  # Hypothesis gives what it makes by position
                    await test(*args[:place], world, *args[place:], **kwargs)

        @wraps(test)
        def in_a_loop(*args: Any, **kwargs: Any) -> None:
            asyncio.run(run(*args, **kwargs))

        others = [each for name, each in signature.parameters.items() if name != "world"]
        in_a_loop.__signature__ = signature.replace(parameters=others)  # type: ignore[attr-defined]
        return in_a_loop

    return decorate
