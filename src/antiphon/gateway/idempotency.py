"""``Idempotency-Key``: a request that is sent again takes effect once, and gets the same answer.

The header is that of draft-ietf-httpapi-idempotency-key-header. The answer is kept in the transaction
of the route's effects, so that there is never one without the other.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from starlette.requests import Request
from starlette.responses import Response

from antiphon.gateway.problems import refusal
from antiphon.runtime.transaction import Transaction
from antiphon.store.answers import Answer, find_answer, keep_answer
from antiphon.store.base import SqlStore

HEADER = "Idempotency-Key"
REPLAYED = "Idempotency-Replayed"
LONGEST_KEY = 255
# A conflict means that somebody's answer is there, so the second look finds it; a third is for pruning.
_LOOKS = 3

Keep = Callable[[Transaction, Response], Awaitable[None]]
Perform = Callable[[Keep | None], Awaitable[Response]]


class _AnsweredMeanwhile(Exception):
    """Another process has answered the key: this attempt is undone."""


@dataclass
class _Turn:
    """Who has a key now, and how many want it."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    users: int = 0


class Idempotency:
    """Answers each key of a route once. Two requests of one key at the same time: one runs, one waits."""

    def __init__(self) -> None:
        self._turns: dict[tuple[str, str], _Turn] = {}
        self._secrets: dict[SqlStore, bytes] = {}

    async def answer(self, store: SqlStore, route: str, request: Request, perform: Perform) -> Response:
        """The answer to *request*: what *perform* gives, or what it gave when it was first asked.

        Raises HTTPException 400 for a key that is none, 422 for a key that another request has used.
        """
        key = _key_of(request)
        if key is None:
            return await perform(None)
        fingerprint = await _fingerprint(request, await self._secret(store))

        async def keep(tx: Transaction, response: Response) -> None:
            if response.status_code >= 400:
                return
            if not hasattr(response, "body"):
                raise refusal(400, f"This route streams its answer, and so takes no {HEADER}.")
            unit = await tx.unit()
            headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in response.raw_headers]
            answer = Answer(fingerprint, response.status_code, headers, bytes(response.body))
            if not await keep_answer(unit, route, key, answer, store.clock.now_ms()):
                raise _AnsweredMeanwhile

        async with self._turn((route, key)):
            for _ in range(_LOOKS):
                kept = await find_answer(store, route, key)
                if kept is not None:
                    return _replay(kept, fingerprint)
                try:
                    return await perform(keep)
                except _AnsweredMeanwhile:
                    continue
        raise refusal(409, f"Another request with this {HEADER} is being answered.", kind="idempotency-conflict")

    async def _secret(self, store: SqlStore) -> bytes:
        if store not in self._secrets:
            self._secrets[store] = await store.secret()
        return self._secrets[store]

    @asynccontextmanager
    async def _turn(self, key: tuple[str, str]) -> AsyncIterator[None]:
        turn = self._turns.setdefault(key, _Turn())
        turn.users += 1
        try:
            async with turn.lock:
                yield
        finally:
            turn.users -= 1
            if not turn.users:
                del self._turns[key]


def _key_of(request: Request) -> str | None:
    if request.method in ("GET", "HEAD", "OPTIONS"):
        return None
    found = request.headers.getlist(HEADER)
    if not found:
        return None
    key = found[0].strip()
    if len(key) >= 2 and key[0] == key[-1] == '"':
        key = key[1:-1]  # the draft has it as a quoted string; most clients send it bare
    if len(found) > 1 or not 1 <= len(key) <= LONGEST_KEY or not (key.isascii() and key.isprintable()):
        reason = f"one header of 1 to {LONGEST_KEY} printable ASCII characters is needed"
        raise refusal(400, f"{HEADER}: {reason}", kind="idempotency-key", field=f"header {HEADER}", reason=reason)
    return key


async def _fingerprint(request: Request, key: bytes) -> str:
    """What makes two requests the same: where they go, who sends them, and every byte of the body.

    It is keyed: whoever gets hold of the database cannot guess at a body (a card number) and compare.
    """
    digest = hashlib.blake2b(digest_size=20, key=key)
    who = (request.headers.get("authorization", ""), request.headers.get("content-type", ""))
    for part in (request.method, request.url.path, request.url.query, *who):
        digest.update(part.encode() + b"\0")
    digest.update(await request.body())
    return digest.hexdigest()


def _replay(kept: Answer, fingerprint: str) -> Response:
    if kept.fingerprint != fingerprint:
        reason = "it was used for another request"
        raise refusal(
            422, f"{HEADER}: {reason}", kind="idempotency-key-reused", field=f"header {HEADER}", reason=reason
        )
    response = Response(kept.body, kept.status)
    response.raw_headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in kept.headers]
    response.headers[REPLAYED] = "true"
    return response
