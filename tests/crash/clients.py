"""Clients of a gateway that dies now and then: each request is sent until it is answered, under one key."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import httpx

from antiphon.ports import Clock

#: Answers after which the same request is sent again: busy with the same key, not running, broken off, draining.
_AGAIN = frozenset({409, 502, 503, 504})
_PAUSE_S = 0.05


class Clients:
    """So many *lanes*, in each of which one request follows the other.

    *accepted* maps the number of a request to the id that it was answered with.
    """

    def __init__(
        self, url: Callable[[], str | None], path: str, body: Callable[[int, int], dict[str, Any]], id_field: str
    ) -> None:
        self._url = url
        self._path = path
        self._body = body
        self._id_field = id_field
        self._stopped = False
        self._news = asyncio.Condition()
        self.accepted: dict[int, str] = {}
        #: Requests that were sent again, since an answer was lost or was none.
        self.retried = 0
        #: Requests that were answered with two ids.
        self.contradicted = 0
        self.refused: list[str] = []

    def stop(self) -> None:
        """Send no new request; `run` returns when all that were sent have been answered."""
        self._stopped = True

    async def run(self, lanes: int, clock: Clock) -> None:
        """Send until stopped."""
        limits = httpx.Limits(max_connections=2 * lanes)
        async with httpx.AsyncClient(limits=limits, timeout=10, trust_env=False) as client:
            await asyncio.gather(*(self._lane(client, clock, lane, lanes) for lane in range(lanes)))

    async def more(self, count: int) -> None:
        """Return when *count* more requests have been accepted."""
        wanted = len(self.accepted) + count
        async with self._news:
            await self._news.wait_for(lambda: len(self.accepted) >= wanted)

    async def _lane(self, client: httpx.AsyncClient, clock: Clock, lane: int, lanes: int) -> None:
        number = lane
        while not self._stopped:
            found = await self._sent(client, clock, lane, number)
            if number % 7 == 0 and found != await self._sent(client, clock, lane, number):
                self.contradicted += 1
            if found is not None:
                async with self._news:
                    self.accepted[number] = found
                    self._news.notify_all()
            number += lanes

    async def _sent(self, client: httpx.AsyncClient, clock: Clock, lane: int, number: int) -> str | None:
        """Send one request until it is answered; the id, or None if it was refused."""
        sent = False
        while True:
            url = self._url()
            if url is not None:
                self.retried += sent
                sent = True
                try:
                    answer = await client.post(
                        url + self._path,
                        json=self._body(lane, number),
                        headers={"Idempotency-Key": f"request-{number}"},
                    )
                except httpx.TransportError:
                    pass
                else:
                    if answer.status_code == httpx.codes.ACCEPTED:
                        return str(answer.json()[self._id_field])
                    if answer.status_code not in _AGAIN:
                        self.refused.append(f"{answer.status_code}: {answer.text[:300]}")
                        return None
            await clock.sleep(_PAUSE_S)
