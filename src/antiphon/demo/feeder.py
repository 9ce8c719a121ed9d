"""Posts requests to the gateway, as clients would: at a pace, and some of them twice."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field

import httpx

from antiphon.demo.chance import Chance
from antiphon.demo.subject import Subject
from antiphon.ports import Clock

log = logging.getLogger("antiphon.demo")

#: So many requests are sent twice with one Idempotency-Key, as by a client that got no answer.
TWICE_SHARE = 0.03

_IN_FLIGHT = 32
_TICK_S = 0.01
#: Processes may be killed meanwhile: so often, and with pauses of so many seconds at most, is one asked again.
_POST_ATTEMPTS = 10
_LONGEST_PAUSE_S = 2.0


@dataclass
class Fed:
    """What has been fed so far. *accepted* maps the number of a request to the id that it was answered with."""

    accepted: dict[int, str] = field(default_factory=dict)
    sent_twice: int = 0
    #: Requests that were answered with two ids.
    doubled: int = 0
    #: Requests that got no answer in several attempts, or a refusal.
    refused: int = 0


class Feeder:
    """Posts *rate* requests a second until it is stopped; no more than the gateway keeps up with."""

    def __init__(self, url: str, subject: Subject, rate: float, chance: Chance, clock: Clock) -> None:
        self.fed = Fed()
        self._url = url.rstrip("/") + subject.path
        self._subject = subject
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
                    task = asyncio.create_task(self._ask(client, sent))
                    requests.add(task)
                    task.add_done_callback(requests.discard)
                    sent += 1
                if due - sent > self._rate:
                    begun = self._clock.boot_ms() - round(sent * 1000 / self._rate)  # too slow: do not pile up
                await self._clock.sleep(_TICK_S)
            await asyncio.gather(*requests)

    async def _ask(self, client: httpx.AsyncClient, number: int) -> None:
        twice = self._chance.of("twice", number) < TWICE_SHARE
        answers = await asyncio.gather(*(self._post(client, number) for _ in range(1 + twice)))
        ids = {answer for answer in answers if answer is not None}
        self.fed.sent_twice += twice
        self.fed.doubled += len(ids) > 1
        if ids:
            self.fed.accepted[number] = min(ids)
        else:
            self.fed.refused += 1

    async def _post(self, client: httpx.AsyncClient, number: int) -> str | None:
        """Send one request until it is answered; the id that it is answered with, None if it was refused."""
        headers = {"Idempotency-Key": f"{self._run}-{number}"}
        body = self._subject.request(self._chance, number)
        why = ""
        for attempt in range(_POST_ATTEMPTS):
            try:
                answer = await client.post(self._url, json=body, headers=headers)
            except httpx.TransportError as error:
                why = f"{type(error).__name__}: {error}"
            else:
                if answer.status_code == httpx.codes.ACCEPTED:
                    return str(answer.json()[self._subject.id_field])
                why = f"{answer.status_code}: {answer.text[:300]}"
                if answer.status_code < 500 and answer.status_code != httpx.codes.CONFLICT:
                    break
            await self._clock.sleep(min(0.1 * 2**attempt, _LONGEST_PAUSE_S))
        log.error("%s %d was refused: %s", self._subject.noun, number, why)
        return None
