"""All checks of the suite, and how each of them is run against an engine."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from functools import wraps
from pathlib import Path
from typing import NamedTuple, TypeVar

from antiphon.ports import Ability, MakeBus
from antiphon.testing.conformance.bus import CARRYING_CHECKS, ONLY_IF
from antiphon.testing.conformance.deliveries import DELIVERY_CHECKS
from antiphon.testing.conformance.hostile import HOSTILE_CHECKS, Put
from antiphon.testing.conformance.kit import BusCheck, MakeStore, StoreCheck
from antiphon.testing.conformance.leases import LEASE_CHECKS
from antiphon.testing.conformance.lines import BUS_LINE_CHECKS, a_broker_that_does_not_answer_is_given_up
from antiphon.testing.conformance.load import LOAD_CHECKS, a_late_receiver_reads_a_long_backlog
from antiphon.testing.conformance.log import LOG_CHECKS, a_backlog_is_read_in_bounded_pieces, read_backlog
from antiphon.testing.conformance.partitions import PARTITION_CHECKS
from antiphon.testing.conformance.storelines import STORE_LINE_CHECKS
from antiphon.testing.conformance.talking import TALKING_CHECKS
from antiphon.testing.conformance.timers import TIMER_CHECKS
from antiphon.testing.line import Line, line_to

#: Everything that a store promises, from the log upwards.
STORE_CHECKS: list[StoreCheck] = [
    *LOG_CHECKS,
    *LEASE_CHECKS,
    *PARTITION_CHECKS,
    *DELIVERY_CHECKS,
    *TIMER_CHECKS,
    *TALKING_CHECKS,
]
#: Everything that a bus of all abilities promises.
BUS_CHECKS: list[BusCheck] = [*CARRYING_CHECKS, *LOAD_CHECKS]
#: Gives a factory of stores, or of buses, at a URL.
Makes = Callable[[str], AbstractAsyncContextManager["Make"]]
Make = TypeVar("Make")


class Check(NamedTuple):
    """One promise that an engine is held to: the check's name, and how it is run in a new folder."""

    name: str
    run: Callable[[Path], Awaitable[None]]


def bus_checks(abilities: frozenset[Ability]) -> list[BusCheck]:
    """The checks for a bus of these abilities."""
    return [each for each in BUS_CHECKS if ONLY_IF.get(each) in (None, *abilities)]


def of_stores(makes: Makes[MakeStore], url: str, backlog: int | None) -> list[Check]:
    """The checks of the stores that *makes* gives at *url*; a long backlog has so many events (None: a few)."""
    checks: list[Callable[[MakeStore, Path], Awaitable[None]]]
    checks = [each for each in STORE_CHECKS if backlog is None or each is not a_backlog_is_read_in_bounded_pieces]
    if backlog is not None:
        checks.append(_with_backlog(read_backlog, backlog))
    return [_made(each, makes, url) for each in checks]


def of_buses(makes: Makes[MakeBus], url: str, abilities: frozenset[Ability], backlog: int | None) -> list[Check]:
    """The same of buses of these abilities."""
    late = a_late_receiver_reads_a_long_backlog
    checks: list[Callable[[MakeBus, Path], Awaitable[None]]]
    checks = [each for each in bus_checks(abilities) if backlog is None or each is not late]
    if backlog is not None:
        checks.append(_with_backlog(late, backlog))
    return [_made(each, makes, url) for each in checks]


def of_stores_by_line(makes: Makes[MakeStore], url: str) -> list[Check]:
    """The checks of stores whose server is reached by way of a line."""
    return [_by_line(each, makes, url) for each in STORE_LINE_CHECKS]


def of_buses_by_line(makes: Makes[MakeBus], url: str, *, waits: bool) -> list[Check]:
    """The same of buses. *waits*: they wait for a server that keeps a connection and says nothing."""
    checks = [each for each in BUS_LINE_CHECKS if not (waits and each is a_broker_that_does_not_answer_is_given_up)]
    return [_by_line(each, makes, url) for each in checks]


def of_raw_bytes(makes: Makes[tuple[MakeBus, Put]], url: str) -> list[Check]:
    """The checks of buses that anybody can put bytes on."""

    def check_of(check: Callable[[MakeBus, Path, Put], Awaitable[None]]) -> Check:
        async def run(folder: Path) -> None:
            async with makes(url) as (make, put):
                await check(make, folder, put)

        return Check(check.__name__, run)

    return [check_of(each) for each in HOSTILE_CHECKS]


def _made(check: Callable[[Make, Path], Awaitable[None]], makes: Makes[Make], url: str) -> Check:
    async def run(folder: Path) -> None:
        async with makes(url) as make:
            await check(make, folder)

    return Check(check.__name__, run)


def _by_line(check: Callable[[Make, Path, Line], Awaitable[None]], makes: Makes[Make], url: str) -> Check:
    async def run(folder: Path) -> None:
        async with line_to(url) as line, makes(line.url) as make:
            try:
                await check(make, folder, line)
            finally:
                # However the check has left it: what was made on the server has to be removed.
                await line.cut()
                await line.mend()

    return Check(check.__name__, run)


def _with_backlog(
    check: Callable[[Make, Path, int], Awaitable[None]], backlog: int
) -> Callable[[Make, Path], Awaitable[None]]:
    @wraps(check)
    async def run(make: Make, path: Path) -> None:
        await check(make, path, backlog)

    return run
