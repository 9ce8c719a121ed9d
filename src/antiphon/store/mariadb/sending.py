"""How statements are sent on a session, and what a unit makes of their answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from asyncmy.errors import Error

from antiphon.ports import Held
from antiphon.store.mariadb.connection import DUPLICATE, IDLE, Result, Session
from antiphon.store.mariadb.statements import Statement, understood
from antiphon.store.named import row_type


async def run_one(
    session: Session, statement: Statement, parameters: Sequence[Any], idle_s: int | None = None
) -> Result | None:
    """What one statement has come to; None if its row was there already, and it says to leave that alone.

    *idle_s*: behind it the transaction may stand still for so long (None: as before).
    """
    try:
        if idle_s is None:
            return await session.run(statement, parameters)
        session.idle_s = None
        limited, found = await session.run_together([(IDLE, (idle_s,)), (statement, parameters)])
        for each in (limited, found):
            if isinstance(each, Error):
                raise each
        session.idle_s = idle_s
        return cast("Result", found)
    except Error as error:
        if _left_alone(statement, error):
            return None
        raise


async def run_held(session: Session, held: Sequence[Held], idle_s: int | None = None) -> None:
    """Run statements that have waited for each other, in order, and put each its result. Raises the first error, when
    all answers are read. *idle_s*: as for `run_one`."""
    start = 0
    if idle_s is not None:
        session.idle_s = None
        held = [Held(IDLE.text, (idle_s,)), *held]
    for end, each in enumerate([*held, None]):
        if each is None or each.many:
            await _run_singles(session, held[start:end])
            start = end + 1
        if each is not None and each.many:
            each.result = await _run_many(session, each)
    session.idle_s = idle_s or session.idle_s


async def _run_singles(session: Session, held: Sequence[Held]) -> None:
    statements = [(understood(each.sql), each.parameters) for each in held]
    failed: Error | None = None
    answers = await session.run_together(statements) if held else []
    for each, (statement, _), answer in zip(held, statements, answers, strict=True):
        found: Result | None = None
        if isinstance(answer, Result):
            found = answer
        elif not _left_alone(statement, answer):
            failed = failed or answer
        each.result = rows_of(found) if each.fetches else changed(statement, found)
    if failed is not None:
        raise failed


async def _run_many(session: Session, held: Held) -> int:
    statement = understood(held.sql)
    if statement.kind == "skip":
        singles = [Held(held.sql, row) for row in held.parameters]
        await _run_singles(session, singles)
        return sum(each.result for each in singles)
    rows = [statement.bound(row) for row in held.parameters]
    found = await session.run_many(statement.text, rows)
    return min(found, len(rows)) if statement.kind == "upsert" else found


def changed(statement: Statement, found: Result | None) -> int:
    """How many rows *statement* has changed."""
    if found is None:
        return 0
    return min(found.affected, 1) if statement.kind == "upsert" and statement.is_single else found.affected


def rows_of(found: Result | None) -> list[Any]:
    """Its rows, with index and name access."""
    if found is None:
        return []
    row = row_type(found.columns)
    return [row(each) for each in found.rows]


def _left_alone(statement: Statement, error: Error) -> bool:
    """Whether *error* says that the row of *statement* is there already, and that it wants it left alone then."""
    return statement.kind == "skip" and statement.is_single and error.args[0] == DUPLICATE
