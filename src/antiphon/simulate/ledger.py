"""What the world outside knows of a run: what it asked for, what it was told, what was tried, who died."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from hashlib import blake2b
from typing import Literal, Protocol

import msgspec

Outcome = Literal["running", "returned", "raised", "rejected", "cancelled", "died"]


class Mortal(Protocol):
    """A process, as far as its death is concerned."""

    name: str
    owner: str


class Asked(msgspec.Struct):
    """A request or publication, and what became of it as far as its sender knows.

    *answers* are the correlations that were answered, one for each answer that arrived; *refused*: the gateway
    said that it did nothing.
    """

    key: str
    what: str
    service: str
    answers: list[str] = []
    refused: bool = False
    repeatable: bool = True
    sent: int = 0

    @property
    def traceparent(self) -> str:
        """The header by which the events that it makes are known."""
        digest = blake2b(self.key.encode(), digest_size=24).hexdigest()
        return f"00-{digest[:32]}-{digest[32:]}-01"


class Attempt(msgspec.Struct):
    """One call of a handler's function."""

    handler: str
    event_id: str
    owner: str
    began: float
    outcome: Outcome = "running"


class Call(msgspec.Struct):
    """One call to the world outside by `Effects.once`. What was under way when its process died is unknown."""

    outcome: Literal["unknown", "done", "not done"] = "unknown"

    @property
    def may_be_done(self) -> bool:
        """Whether it has, or may have, taken effect."""
        return self.outcome != "not done"


class Ledger:
    """Written while a world runs, read by the invariants. *now* gives virtual seconds since its beginning."""

    def __init__(self, now: Callable[[], float]) -> None:
        self.now = now
        self._lines: list[tuple[float, str, str]] = []
        self._running: dict[str, list[Attempt]] = defaultdict(list)
        #: What was asked for, by idempotency key.
        self.asked: dict[str, Asked] = {}
        #: Events whose publish was acknowledged, and the service whose log has them.
        self.acknowledged: dict[str, str] = {}
        self.attempts: dict[tuple[str, str], list[Attempt]] = defaultdict(list)
        #: Calls to the world outside, by handler, event and the call's name.
        self.calls: dict[tuple[str, str, str], list[Call]] = defaultdict(list)
        #: Calls that were made although one before may have taken effect, and nobody had looked.
        self.blind_calls: list[str] = []
        #: Steps of workflows (workflow, run, position) of which nobody can tell whether they took effect.
        self.unwatched_steps: set[tuple[str, str, str]] = set()
        self.crashes = 0
        self.power_losses = 0
        #: Owners (a process's generations each have a name of their own) that are dead.
        self.dead: set[str] = set()
        #: Called with the owner at each death, before anything else happens.
        self.on_death: list[Callable[[str], None]] = []

    # ------------------------------------------------------------------ requests and publications

    def sends(self, key: str, what: str, service: str, *, repeatable: bool = True) -> Asked:
        """Something is sent, for the first time or again. Unless *repeatable*, each sending may take effect."""
        asked = self.asked.setdefault(key, Asked(key, what, service, [], repeatable=repeatable))
        asked.sent += 1
        self.note("client", f"{key}: {what}" if asked.sent == 1 else f"{key}: sent again")
        return asked

    def acknowledge(self, asked: Asked, event_id: str | None, correlation_id: str | None) -> None:
        """An answer arrived that promises durability."""
        if event_id is not None:
            self.acknowledged[event_id] = asked.service
        if correlation_id is not None:
            asked.answers.append(correlation_id)
        self.note("client", f"{asked.key}: acknowledged{f', event {event_id}' if event_id else ''}")

    def refuse(self, asked: Asked, why: str) -> None:
        """An answer arrived that says that nothing was done."""
        asked.refused = True
        self.note("client", f"{asked.key}: refused, {why}")

    def loses(self, asked: Asked, why: str) -> None:
        """No answer arrived."""
        self.note("client", f"{asked.key}: no answer ({why})")

    # ------------------------------------------------------------------ attempts

    def begins(self, handler: str, event_id: str, owner: str) -> Attempt:
        """A handler's function is called."""
        attempt = Attempt(handler, event_id, owner, self.now())
        self.attempts[handler, event_id].append(attempt)
        self._running[owner].append(attempt)
        number = len(self.attempts[handler, event_id])
        self.note(owner, f"{handler} begins {event_id}" + (f", call {number}" if number > 1 else ""))
        return attempt

    def ends(self, attempt: Attempt, outcome: Outcome, why: str = "") -> None:
        """It has ended. What was running when its process died has not."""
        if attempt.outcome != "running":
            return
        attempt.outcome = outcome
        self._running[attempt.owner].remove(attempt)
        self.note(attempt.owner, f"{attempt.handler} {outcome} {attempt.event_id}" + (f": {why}" if why else ""))

    # ------------------------------------------------------------------ calls to the outside

    def calls_out(self, handler: str, event_id: str, name: str, *, blindly: bool) -> Call:
        """The world outside is called by the effect *name* of *handler*."""
        call = Call()
        self.calls[handler, event_id, name].append(call)
        if blindly:
            self.blind_calls.append(f"{handler} has called {name!r} again for {event_id}, which may have been done")
        return call

    # ------------------------------------------------------------------ processes

    def crashed(self, process: Mortal, kind: str) -> None:
        """*process* dies, by *kind*: what it was doing ends nowhere."""
        self.crashes += 1
        self.power_losses += kind.startswith("power")
        self.dead.add(process.owner)
        for attempt in self._running.pop(process.owner, ()):
            attempt.outcome = "died"
        self.note(process.owner, f"dies: {kind}")
        for told in self.on_death:
            told(process.owner)

    def restarted(self, process: Mortal) -> None:
        """*process* is there again, under a new owner's name."""
        self.note(process.owner, "is up")

    # ------------------------------------------------------------------ the timeline

    def note(self, who: str, text: str) -> None:
        """Write a line of the timeline."""
        self._lines.append((self.now(), who, text))

    def timeline(self) -> list[str]:
        """The lines, each with its virtual second."""
        return [f"{at:12.6f} s  {who:<10} {text}" for at, who, text in self._lines]
