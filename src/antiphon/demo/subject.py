"""What is demonstrated: an example system, with what it needs to be fed, shown and audited."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from antiphon.app import App
from antiphon.demo.chance import Chance
from antiphon.errors import AntiphonError

#: The examples that have a module ``demo`` with a function ``subject()``, and what the command line says of each.
EXAMPLES = {
    "flight_booking": "five services that answer each other's events, fed with bookings of real flights",
    "payments_stp": "payments of real purchases through two services and a ledger, whose processes are killed",
    "securecart": "five services and a workflow that asks them, fed with orders",
}

Count = tuple[str, str]


@dataclass(frozen=True)
class Subject:
    """An example as the demo sees it. SQL is asked of the store of the service that stands beside it."""

    app: App
    #: What is asked for, in the singular: ``booking``.
    noun: str
    #: Requests are posted to *path*; an answer has the id of what was accepted in *id_field*.
    path: str
    id_field: str
    #: The body of the *n*-th request: the same for the same chance.
    request: Callable[[Chance, int], dict[str, Any]]
    #: ``SELECT status, count(*)`` of all that was accepted, the statuses in their order, and those that are ends,
    #: each with the colour that it is shown in.
    progress: Count
    statuses: tuple[str, ...]
    ends: Mapping[str, str]
    #: Types of events that are the last of their process.
    last_events: tuple[str, ...]
    #: The questions of its audit, in named blocks beside those of ``audit.sql`` here. A finding begins with
    #: ``lost:`` or ``duplicated:``, all else is a figure.
    audit_sql: str
    #: The audit's figures in words, a line each; it is given the facts of the report.
    summary: Callable[[Mapping[str, Any]], list[str]]
    #: What there is to open at the gateway, and what is there; something to try with it.
    addresses: tuple[tuple[str, str], ...]
    hint: str
    #: What else is counted while it runs, by its name.
    counters: Mapping[str, Count]
    #: Whether nothing is owed any more when all has come to an end, by the statuses and the counters.
    at_rest: Callable[[Mapping[str, int], Mapping[str, int]], bool] = lambda statuses, counters: True
    #: How often one of its processes is killed, in seconds, unless that is said; 0: it runs in one, and none is.
    kill_every_s: float = 0.0
    #: What has to run beside it, such as a bank; it counts what it does, by id, in what is *received* outside.
    outside: Callable[[Counter[str]], AbstractAsyncContextManager[object]] = lambda received: nullcontext()

    @property
    def title(self) -> str:
        """The example's name, as it is read."""
        return self.app.name.replace("_", " ")

    def settled(self, statuses: Mapping[str, int], counters: Mapping[str, int]) -> bool:
        """Whether everything that was accepted has come to its end."""
        ended = sum(statuses[each] for each in self.ends)
        return ended == sum(statuses.values()) and self.at_rest(statuses, counters)


def app_of(name: str) -> App:
    """The app of the example of that name. Raises AntiphonError if it cannot be imported."""
    app: App = _module(name, "").app
    return app


def subject_of(name: str) -> Subject:
    """The example of that name. Raises AntiphonError if it cannot be imported, or lacks what it is fed with."""
    subject: Subject = _module(name, ".demo").subject()
    return subject


def _module(example: str, module: str) -> Any:
    """A module of an example: of the checkout that this lies in, else of the wheel."""
    package = f"antiphon_examples.{example}"
    checkout = Path(__file__).parents[3]
    if (checkout / "examples" / example).is_dir():
        package = f"examples.{example}"
        if str(checkout) not in sys.path:
            sys.path.insert(0, str(checkout))
    try:
        return import_module(package + module)
    except ModuleNotFoundError as error:
        raise AntiphonError(
            f"the example cannot be imported: {error}", where=package, mend="Install antiphon with its libraries"
        ) from error
