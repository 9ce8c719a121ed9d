"""Answers that were given under an Idempotency-Key, kept in the transaction whose effects they tell."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from antiphon.ports import Unit

if TYPE_CHECKING:
    from antiphon.store.base import SqlStore

_Headers = list[tuple[str, str]]


class Answer(msgspec.Struct, frozen=True):
    """One HTTP answer, and the *fingerprint* of the request that it was given to."""

    fingerprint: str
    status: int
    headers: _Headers
    body: bytes


async def find_answer(store: SqlStore, route: str, key: str) -> Answer | None:
    """The answer kept for *key* of *route*; None if there is none."""
    rows = await store.fetch_all(
        "SELECT fingerprint, status, headers, body FROM antiphon_idempotency WHERE route = ? AND key = ?", (route, key)
    )
    if not rows:
        return None
    fingerprint, status, headers, body = rows[0]
    return Answer(fingerprint, status, msgspec.json.decode(headers, type=_Headers), body)


async def keep_answer(unit: Unit, route: str, key: str, answer: Answer, now_ms: int) -> bool:
    """Keep *answer* when *unit* commits. False if one is there already: then *unit* must not commit."""
    headers = msgspec.json.encode(answer.headers).decode()
    return (
        await unit.execute(
            "INSERT INTO antiphon_idempotency (route, key, fingerprint, status, headers, body, created_ms)"
            " VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (route, key) DO NOTHING",
            (route, key, answer.fingerprint, answer.status, headers, answer.body, now_ms),
        )
        == 1
    )
