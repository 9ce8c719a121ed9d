"""What a test makes fail on purpose: handlers, steps, the peers that they call, and the processes they run in."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import wraps
from typing import Any

from antiphon.model.workflows import WorkflowSpec
from antiphon.policy.words import describe
from antiphon.runtime.workflow.handle import Workflow
from antiphon.workflow import WorkflowHandle

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


def breakable(fn: Callable[..., Any], faults: Iterable[Fault]) -> Callable[..., Any]:
    """*fn*; while one of *faults* strikes, it fails before it is called, or after it has ended."""
    if inspect.iscoroutinefunction(fn):

        @wraps(fn)
        async def called_async(*args: Any, **kwargs: Any) -> Any:
            fault = _striking(faults)
            if fault is None:
                return await fn(*args, **kwargs)
            if fault.after:
                await fn(*args, **kwargs)
            if isinstance(fault, Crash):
                await fault.die()
            raise fault.fresh_error()

        return called_async

    @wraps(fn)
    def called(*args: Any, **kwargs: Any) -> Any:
        fault = _striking(faults)
        if fault is None:
            return fn(*args, **kwargs)
        if fault.after:
            fn(*args, **kwargs)
        if isinstance(fault, Crash):
            asyncio.run_coroutine_threadsafe(fault.die(), fault.loop).result()
        raise fault.fresh_error()

    return called


def _striking(faults: Iterable[Fault]) -> Fault | None:
    return next((each for each in faults if each.strikes()), None)


def patch(owner: Any, name: str, fault: Fault) -> Callable[[], None]:
    """Make the attribute *name* of *owner*, a callable, fail while *fault* strikes. Returns the undo."""
    original: Callable[..., Any] = getattr(owner, name)
    stored = inspect.getattr_static(owner, name)
    was_own = name in vars(owner)
    called = breakable(original, [fault])
    is_bound_already = isinstance(owner, type) and isinstance(stored, staticmethod | classmethod)
    setattr(owner, name, staticmethod(called) if is_bound_already else called)

    def undo() -> None:
        if was_own:
            setattr(owner, name, stored)
        else:
            delattr(owner, name)

    return undo


class BreakableWorkflow(Workflow):
    """A run's calls, whose steps and undo steps fail while a fault of their function strikes."""

    __slots__ = ("_faults",)

    def __init__(self, calls: Workflow, faults: Mapping[Callable[..., Any], Iterable[Fault]]) -> None:
        super().__init__(calls._turn)
        self._faults = faults

    async def step(self, fn: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """See `Workflow.step`."""
        if undo := options.get("undo"):
            options["undo"] = self._broken(undo)
        return await super().step(self._broken(fn), *args, **options)

    def _broken(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        faults = self._faults.get(fn)
        return fn if faults is None else breakable(fn, faults)


def breakable_runs(
    workflow: WorkflowHandle, faults: Mapping[Callable[..., Any], Iterable[Fault]]
) -> dict[str, Callable[..., Any]]:
    """The functions of the handlers of *workflow*, by the handlers' names, with steps that can fail."""

    def broken(spec: WorkflowSpec) -> WorkflowSpec:
        @wraps(spec.fn)
        def called(event: Any, wf: Workflow) -> Any:
            return spec.fn(event, BreakableWorkflow(wf, faults))

        return replace(spec, fn=called)

    first, *others = map(broken, workflow.versions.values())
    made = WorkflowHandle(first)
    for spec in others:
        made.engine.add(spec)
    return {each.name: each.fn for each in made.handlers()}
