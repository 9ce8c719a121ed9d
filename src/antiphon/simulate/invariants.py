"""Asks what must hold of a run: the promises of the engine (promises.py) and the application's own."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from antiphon.simulate.evidence import Evidence
from antiphon.simulate.history import History, Reads
from antiphon.simulate.ledger import Ledger
from antiphon.simulate.promises import ALONG, END, Check, pending, settled_is_done

if TYPE_CHECKING:
    from antiphon.app import App
    from antiphon.simulate.world import World

#: What stands in for the outside remembers, by host and port.
Outside = Mapping[tuple[str, int], Mapping[str, Any]]

#: The invariants that are checked elsewhere: two runs of one seed are compared by the search.
ELSEWHERE = {
    "G0 deterministic": "Two runs of one seed, under different hash seeds, pass the same points.",
    "G0 no_unforeseen_error": "Whatever goes wrong, nothing is logged as an error that nobody foresaw.",
}


# What an application claims is called as its function is, which has no space.
_OF_A_PROMISE = re.compile("G[1-9] ")


class Violation(msgspec.Struct, frozen=True):
    """Something that must hold did not: the invariant's name, and what was found."""

    name: str
    text: str

    @property
    def breaks_a_promise(self) -> bool:
        """Whether it is one of G1 to G9: neither an error that was logged, nor what an application says of itself."""
        return _OF_A_PROMISE.match(self.name) is not None


def catalogue() -> dict[str, str]:
    """Every invariant of the engine by its name, with what it says."""
    asked = {name: (check.__doc__ or "").strip() for name, check in {**ALONG, **END}.items()}
    return dict(sorted({**asked, **ELSEWHERE}.items()))


_DEAD_KEYS = (
    "SELECT l.key FROM antiphon_deliveries AS d JOIN antiphon_log AS l ON l.seq = d.seq "
    "WHERE d.status IN ('ERROR', 'FAILED')"
)


class CommittedLook:
    """What the application's own invariants see (``antiphon.Look``)."""

    def __init__(self, reads: Reads, services: Sequence[str], outside: Outside) -> None:
        self._reads = reads
        self._services = services
        self._outside = outside

    def rows(self, service: str, sql: str, *parameters: Any) -> Sequence[Any]:
        """All rows of a query on the store of *service*."""
        return self._reads.rows(service, sql, *parameters)

    def value(self, service: str, sql: str, *parameters: Any) -> Any:
        """The first column of the first row, or None."""
        rows = self._reads.rows(service, sql, *parameters)
        return rows[0][0] if rows else None

    def dead_keys(self) -> set[str | None]:
        """The keys of all events that some handler has as a dead letter."""
        return {row[0] for service in self._services for row in self._reads.rows(service, _DEAD_KEYS)}

    def outside(self, host: str, port: int) -> Mapping[str, Any]:
        """What the stand-in at an address remembers."""
        return self._outside.get((host, port), {})


class Inspector:
    """Asks all invariants, the engine's and the application's, of one run."""

    def __init__(
        self,
        app: App,
        ledger: Ledger,
        reads: Reads,
        store_ms: Callable[[str], int | None],
        outside: Outside | None = None,
    ) -> None:
        services = list(app.services)
        stores = {name: [name] for name in services} if app.own_stores else {services[0]: services}
        self._app = app
        self._ledger = ledger
        self._history = History(reads, stores, bus=app.own_stores)
        self._look = CommittedLook(reads, services, outside or {})
        self._found: list[Violation] = []
        self.seen = Evidence(app, ledger, self._history, store_ms)
        ledger.on_death.append(self._died)

    def along(self) -> list[Violation]:
        """Check what must hold at every moment, if anything has been committed since."""
        if self._history.refresh(self._ledger.power_losses):
            self.seen.absorb()
            self._ask(ALONG)
            self._ask_own("always")
        found, self._found = self._found, []
        return found

    def pending(self) -> list[str]:
        """What has not come to rest yet. What else is found on the way is told by the next check."""
        self._found = self.along()
        return list(pending(self.seen))

    def end(self) -> list[Violation]:
        """Check everything, when the world has come to rest or was given up waiting for."""
        self.seen.settled_upto.clear()
        found = self.along()
        self._ask({"G2 settled_is_done": settled_is_done, **END})
        self._ask_own("end")
        found, self._found = [*found, *self._found], []
        return list(dict.fromkeys(found))

    def _ask(self, checks: Mapping[str, Check]) -> None:
        self._found += [Violation(name, text) for name, check in checks.items() for text in check(self.seen)]

    def _ask_own(self, when: str) -> None:
        for spec in self._app.invariants:
            if spec.when != when:
                continue
            try:
                spec.check(self._look)
            except AssertionError as error:
                self._found.append(Violation(spec.name, f"{str(error) or 'it does not hold'} ({spec.source})"))

    def _died(self, owner: str) -> None:
        """Whoever is said to run alone must have done so: it is about to be blamed."""
        running = [
            (handler.name, delivery)
            for store in self._history.stores.values()
            for handler in store.handlers_now()
            if handler.owner == owner
            for delivery in store.running_now(handler.id)
        ]
        for name, delivery in running:
            if delivery.suspect and len(running) > 1:
                self.seen.not_alone.append(
                    f"{owner} died, and {name} is blamed for position {delivery.seq}; {len(running)} were running"
                )


class Checks(Inspector):
    """The invariants of a world."""

    def __init__(self, world: World) -> None:
        super().__init__(world.app, world.ledger, world, self._store_ms, world.outside)
        self._world = world
        self._told = 0

    def along(self) -> list[Violation]:
        """What must hold at every moment; an error that nobody foresaw must never happen."""
        errors, self._told = self._world.errors[self._told :], len(self._world.errors)
        unforeseen = [Violation("G0 no_unforeseen_error", str(error)) for error in errors if error.exception]
        return unforeseen + super().along()

    def _store_ms(self, store: str) -> int | None:
        for process in self._world.serving(store):
            if process.runtime is not None:
                return int(process.runtime.store_of(store).store_ms())
        return None
