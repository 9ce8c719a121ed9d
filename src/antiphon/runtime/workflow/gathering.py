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

    __slots__ = ("awaitable", "begun", "branch", "error", "result")

    def __init__(self, awaitable: Awaitable[Any], branch: Branch) -> None:
        self.awaitable = awaitable
        self.branch = branch
        self.begun = False
        self.error: Exception | None = None
        self.result: Any = UNFINISHED

    @property
    def is_done(self) -> bool:
        """Whether it has ended well."""
        return self.begun and self.error is None and not self.branch.parked

    async def run(self) -> None:
        """Go on as far as it gets. Raises StoreError."""
        self.begun = True
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


class Terms(msgspec.Struct, frozen=True):
    """What a gather asks of its calls: see `Workflow.gather`."""

    need: int | None = None
    tolerated: int = 0
    limit: int | None = None
    name: str | None = None


async def gather(turn: Turn, calls: Sequence[Awaitable[Any]], terms: Terms) -> list[Any]:
    """See `Workflow.gather`."""
    wanted = len(calls) if terms.need is None else terms.need
    if not 0 <= wanted <= len(calls):
        _close(calls)
        raise DeclarationError(f"need is {terms.need}, of {len(calls)} calls", where=turn.spec.name)
    name = terms.name or f"{len(calls)} calls"
    try:
        position, record = turn.find(Kind.GATHER, name, holds_others=True)
    except Parked:
        _close(calls)
        raise
    parent = BRANCH.get()
    frozen = parent.frozen or record is not None
    lines = [_Call(call, Branch(f"{position}.{number}.", frozen=frozen)) for number, call in enumerate(calls, 1)]
    allowed = terms.tolerated or len(calls) - wanted
    await _Passage(turn, lines, allowed, terms.limit, is_over=record is not None).go(at_once=not frozen)
    _close([line.awaitable for line in lines if not line.begun])
    if turn.stuck is not None:
        turn.park_branch()
    outcome = _outcome(lines, wanted, terms.tolerated) if record is None else _read(record.result)
    if outcome is None or (record is None and parent.frozen):
        turn.park_branch()
    if record is None:
        turn.waits[:] = [wait for wait in turn.waits if not wait.position.startswith(f"{position}.")]
        turn.close(position, Kind.GATHER, name, msgspec.json.encode(outcome))
    if outcome.failed is not None:
        raise lines[outcome.failed].error or RuntimeError("a recorded error did not come again")
    if terms.tolerated:
        return [line.result if line.error is None else line.error for line in lines]
    done = set(outcome.done)
    return [line.result if number in done else UNFINISHED for number, line in enumerate(lines)]


class _Passage:
    """Lets the calls of a gather go on, once in this turn.

    They begin in their order, and the next one only while fewer than *limit* are under way and no more than *allowed*
    have failed; but those that have begun in an earlier turn begin again, since their records have to be answered.
    """

    def __init__(self, turn: Turn, lines: Sequence[_Call], allowed: int, limit: int | None, *, is_over: bool) -> None:
        self.turn = turn
        self.lines = lines
        self.allowed = allowed
        self.limit = None if is_over else limit
        self.is_over = is_over
        self.at = self.under_way = self.failed = 0

    async def go(self, *, at_once: bool) -> None:
        """One after another within a batch, outside of it all at once."""
        if at_once and not self.turn.tx.attached:
            lanes = len(self.lines) if self.limit is None else min(self.limit, len(self.lines))
            await _together([self._lane() for _ in range(lanes)])
        else:
            await self._lane()

    async def _lane(self) -> None:
        while self.at < len(self.lines):
            line = self.lines[self.at]
            if not self.is_over and line.branch.prefix not in self.turn.begun:
                if self.limit is not None and self.under_way >= self.limit:
                    return
                if self.failed > self.allowed:
                    self.at += 1
                    continue
            self.at += 1
            self.under_way += 1
            await line.run()
            self.under_way -= not line.branch.parked
            self.failed += line.error is not None


async def _together(work: Sequence[Coroutine[Any, Any, None]]) -> None:
    try:
        async with asyncio.TaskGroup() as group:
            for each in work:
                group.create_task(each)
    except BaseExceptionGroup as several:
        raise several.exceptions[0] from None


def _outcome(lines: Sequence[_Call], wanted: int, tolerated: int) -> _Outcome | None:
    """How it has ended; None if it has not."""
    done = [number for number, line in enumerate(lines) if line.is_done]
    failed = [number for number, line in enumerate(lines) if line.error is not None]
    if tolerated:
        if len(failed) > tolerated:
            return _Outcome(done, failed[0])
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
