"""Posts bookings to the gateway, as passengers would: most are fine, some are declined, some come twice."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import httpx

from antiphon.demo.chance import Chance
from antiphon.ports import Clock

log = logging.getLogger("antiphon.demo")

GOOD_CARD, DECLINED_CARD = "4242 4242 4242 4242", "4000 0000 0000 0002"
DECLINED_SHARE = 0.08
#: So many bookings are for the few flights with the fewest seats, which are soon full.
POPULAR_SHARE, POPULAR_FLIGHTS = 0.15, 3
#: So many requests are sent twice with one Idempotency-Key, as by a client that got no answer.
TWICE_SHARE = 0.03

_IN_FLIGHT = 32
_TICK_S = 0.01
_POST_ATTEMPTS = 5
_FIRST_NAMES = ("Ada", "Alan", "Barbara", "Edsger", "Frances", "Grace", "Jim", "Leslie", "Radia", "Tony")
_LAST_NAMES = ("Allen", "Dijkstra", "Gray", "Hoare", "Hopper", "Lamport", "Liskov", "Lovelace", "Perlman", "Turing")


class BookableFlight(Protocol):
    """What the feeder knows of a flight."""

    @property
    def number(self) -> str:
        """Its number."""

    @property
    def seats(self) -> int:
        """How many seats it has."""


@dataclass
class Fed:
    """What has been fed so far. *accepted* maps the number of a request to the booking that it was answered with."""

    accepted: dict[int, str] = field(default_factory=dict)
    sent_twice: int = 0
    #: Requests that were answered with two bookings.
    doubled: int = 0
    #: Requests that got no answer in several attempts, or a refusal.
    refused: int = 0


class Feeder:
    """Posts *rate* bookings a second until it is stopped; no more than the gateway keeps up with."""

    def __init__(self, url: str, flights: Sequence[BookableFlight], rate: float, chance: Chance, clock: Clock) -> None:
        self.fed = Fed()
        self._url = f"{url.rstrip('/')}/bookings"
        self._flights = [flight.number for flight in flights]
        smallest = sorted(flights, key=lambda flight: flight.seats)[:POPULAR_FLIGHTS]
        self._popular = [flight.number for flight in smallest]
        self._rate = rate
        self._chance = chance
        self._clock = clock
        self._run = clock.new_id()  # so that a second run on the same data sends requests of its own
        self._stopped = asyncio.Event()

    def stop(self) -> None:
        """Send nothing new; `run` returns when all requests have been answered."""
        self._stopped.set()

    async def run(self) -> None:
        """Feed until stopped."""
        limits = httpx.Limits(max_connections=_IN_FLIGHT)
        requests: set[asyncio.Task[None]] = set()
        async with httpx.AsyncClient(limits=limits, timeout=10, trust_env=False) as client:
            begun, sent = self._clock.boot_ms(), 0
            while not self._stopped.is_set():
                due = (self._clock.boot_ms() - begun) * self._rate / 1000
                while sent < due and len(requests) < _IN_FLIGHT:
                    task = asyncio.create_task(self._book(client, sent))
                    requests.add(task)
                    task.add_done_callback(requests.discard)
                    sent += 1
                if due - sent > self._rate:
                    begun = self._clock.boot_ms() - round(sent * 1000 / self._rate)  # too slow: do not pile up
                await self._clock.sleep(_TICK_S)
            await asyncio.gather(*requests)

    def booking(self, number: int) -> dict[str, Any]:
        """The *number*-th request: the same for the same seed."""
        chance = self._chance
        popular = chance.of("popular", number) < POPULAR_SHARE
        declined = chance.of("declined", number) < DECLINED_SHARE
        first = chance.pick(_FIRST_NAMES, "first name", number)
        last = chance.pick(_LAST_NAMES, "last name", number)
        return {
            "flight": chance.pick(self._popular if popular else self._flights, "flight", number),
            "passenger": f"{first} {last}",
            "email": f"{first}.{last}.{number}@passengers.example".lower(),
            "card": DECLINED_CARD if declined else GOOD_CARD,
            "price": f"{49 + 900 * chance.of('price', number):.2f}",
        }

    async def _book(self, client: httpx.AsyncClient, number: int) -> None:
        twice = self._chance.of("twice", number) < TWICE_SHARE
        answers = await asyncio.gather(*(self._post(client, number) for _ in range(1 + twice)))
        bookings = {answer for answer in answers if answer is not None}
        self.fed.sent_twice += twice
        self.fed.doubled += len(bookings) > 1
        if bookings:
            self.fed.accepted[number] = min(bookings)
        else:
            self.fed.refused += 1

    async def _post(self, client: httpx.AsyncClient, number: int) -> str | None:
        """Send one request until it is answered; its booking's id, None if it was refused."""
        headers = {"Idempotency-Key": f"{self._run}-{number}"}
        why = ""
        for attempt in range(_POST_ATTEMPTS):
            try:
                answer = await client.post(self._url, json=self.booking(number), headers=headers)
            except httpx.TransportError as error:
                why = f"{type(error).__name__}: {error}"
            else:
                if answer.status_code == httpx.codes.ACCEPTED:
                    return str(answer.json()["booking_id"])
                why = f"{answer.status_code}: {answer.text[:300]}"
                if answer.status_code < 500 and answer.status_code != httpx.codes.CONFLICT:
                    break
            await self._clock.sleep(0.1 * 2**attempt)
        log.error("booking %d was refused: %s", number, why)
        return None
