"""Several calls of a workflow's function at once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Coroutine, Sequence
from typing import Any

import msgspec

from antiphon.errors import DeclarationError, StoreError
from antiphon.model.workflows import Kind
from antiphon.runtime.workflow.turn import BRANCH, Branch, Parked, Turn


class Unfinished:
    """Stands for the result of a call that was not needed any more."""

    def __repr__(self) -> str:
        return "UNFINISHED"


UNFINISHED = Unfinished()


class _Outcome(msgspec.Struct):
    """How a gather ended: which calls had ended well, and the one whose error it raised."""

    done: list[int]
    failed: int | None = None


class _Call:
    """One call, and what has become of it in this turn."""

    __slots__ = ("awaitable", "branch", "error", "result")

    def __init__(self, awaitable: Awaitable[Any], branch: Branch) -> None:
        self.awaitable = awaitable
        self.branch = branch
        self.error: Exception | None = None
        self.result: Any = UNFINISHED

    @property
    def is_done(self) -> bool:
        """Whether it has ended well."""
        return self.error is None and not self.branch.parked

    async def run(self) -> None:
        """Go on as far as it gets. Raises StoreError."""
        token = BRANCH.set(self.branch)
        try:
            self.result = await self.awaitable
        except Parked:
            self.branch.parked = True
        except StoreError:
            raise
        except Exception as error:  # noqa: BLE001  it is the gather's to raise or to keep
            self.error = error
        finally:
            BRANCH.reset(token)


async def gather(turn: Turn, calls: Sequence[Awaitable[Any]], need: int | None, best_effort: bool) -> list[Any]:
    """See `Workflow.gather`."""
    wanted = len(calls) if need is None else need
    if not 0 <= wanted <= len(calls):
        _close(calls)
        raise DeclarationError(f"need is {need}, of {len(calls)} calls", where=turn.spec.name)
    try:
        position, record = turn.find(Kind.GATHER, f"{len(calls)} calls")
    except Parked:
        _close(calls)
        raise
    parent = BRANCH.get()
    frozen = parent.frozen or record is not None
    lines = [_Call(call, Branch(f"{position}.{number}.", frozen=frozen)) for number, call in enumerate(calls, 1)]
    await _run(turn, lines, at_once=not frozen)
    if turn.stuck is not None:
        turn.park_branch()
    outcome = _outcome(lines, wanted, best_effort) if record is None else _read(record.result)
    if outcome is None:
        turn.park_branch()
    if record is None:
        turn.waits[:] = [wait for wait in turn.waits if not wait.position.startswith(f"{position}.")]
        turn.close(position, Kind.GATHER, f"{len(calls)} calls", msgspec.json.encode(outcome))
    if outcome.failed is not None:
        raise lines[outcome.failed].error or RuntimeError("a recorded error did not come again")
    if best_effort:
        return [line.result if line.error is None else line.error for line in lines]
    done = set(outcome.done)
    return [line.result if number in done else UNFINISHED for number, line in enumerate(lines)]


async def _run(turn: Turn, lines: Sequence[_Call], *, at_once: bool) -> None:
    """Let each go on: one after another within a batch, outside of it all at once."""
    for number, line in enumerate(lines):
        if at_once and not turn.tx.attached:
            await _together([line.run() for line in lines[number:]])
            return
        await line.run()


async def _together(work: Sequence[Coroutine[Any, Any, None]]) -> None:
    try:
        async with asyncio.TaskGroup() as group:
            for each in work:
                group.create_task(each)
    except BaseExceptionGroup as several:
        raise several.exceptions[0] from None


def _outcome(lines: Sequence[_Call], wanted: int, best_effort: bool) -> _Outcome | None:
    """How it has ended; None if it has not."""
    done = [number for number, line in enumerate(lines) if line.is_done]
    failed = [number for number, line in enumerate(lines) if line.error is not None]
    if best_effort:
        return _Outcome(done) if len(done) + len(failed) == len(lines) else None
    if len(done) >= wanted:
        return _Outcome(done)
    return _Outcome(done, failed[0]) if len(failed) > len(lines) - wanted else None


def _read(result: bytes | None) -> _Outcome:
    return msgspec.json.decode(result or b'{"done":[]}', type=_Outcome)


def _close(calls: Sequence[Awaitable[Any]]) -> None:
    """They are not awaited any more."""
    for call in calls:
        if isinstance(call, Coroutine):
            call.close()
