"""What a test makes fail on purpose: handlers, the peers that they call, and the processes that they run in."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from dataclasses import dataclass, field, replace
from functools import wraps
from typing import Any

from antiphon.model.handlers import HandlerSpec
from antiphon.policy.words import describe

Error = BaseException | type[BaseException]


@dataclass
class Fault:
    """Something that fails on purpose. *left*: how many more times (None: until `end`); *failed*: how often it has."""

    error: Error
    left: int | None = 1
    after: bool = False
    failed: int = 0
    calls: int = 0

    @property
    def is_over(self) -> bool:
        """Whether it fails no more."""
        return self.left == 0

    def end(self) -> None:
        """What was broken works again."""
        self.left = 0

    def strikes(self) -> bool:
        """Whether the call that begins now fails."""
        self.calls += 1
        if self.is_over:
            return False
        self.failed += 1
        if self.left is not None:
            self.left -= 1
        return True

    def fresh_error(self) -> BaseException:
        """The error to raise, without the traceback of the time before."""
        return self.error("failed on purpose") if isinstance(self.error, type) else self.error.with_traceback(None)


def described(error: Error) -> str:
    """The error in words."""
    return error.__name__ if isinstance(error, type) else describe(error)


@dataclass
class Crash(Fault):
    """The process of the handler dies at the next call. `die` kills it, and does not return."""

    die: Callable[[], Coroutine[Any, Any, None]] = field(kw_only=True)
    loop: asyncio.AbstractEventLoop = field(kw_only=True)


def breakable(spec: HandlerSpec, faults: Iterable[Fault]) -> HandlerSpec:
    """The handler; while one of *faults* strikes, it fails before its function is called, or after it has ended."""
    fn = spec.fn

    @wraps(fn)
    def called(*args: Any, **kwargs: Any) -> Any:
        fault = next((each for each in faults if each.strikes()), None)
        if fault is None:
            return fn(*args, **kwargs)
        if spec.is_async:
            return _failing(fault, fn(*args, **kwargs) if fault.after else None)
        if fault.after:
            fn(*args, **kwargs)
        if isinstance(fault, Crash):
            asyncio.run_coroutine_threadsafe(fault.die(), fault.loop).result()
        raise fault.fresh_error()

    return replace(spec, fn=called)


async def _failing(fault: Fault, call: Awaitable[Any] | None) -> None:
    if call is not None:
        await call
    if isinstance(fault, Crash):
        await fault.die()
    raise fault.fresh_error()


def patch(owner: Any, name: str, fault: Fault) -> Callable[[], None]:
    """Make the attribute *name* of *owner*, a callable, fail while *fault* strikes. Returns the undo."""
    original: Callable[..., Any] = getattr(owner, name)
    stored = inspect.getattr_static(owner, name)
    was_own = name in vars(owner)

    @wraps(original)
    def called(*args: Any, **kwargs: Any) -> Any:
        if fault.strikes():
            raise fault.fresh_error()
        return original(*args, **kwargs)

    is_bound_already = isinstance(owner, type) and isinstance(stored, staticmethod | classmethod)
    setattr(owner, name, staticmethod(called) if is_bound_already else called)

    def undo() -> None:
        if was_own:
            setattr(owner, name, stored)
        else:
            delattr(owner, name)

    return undo
