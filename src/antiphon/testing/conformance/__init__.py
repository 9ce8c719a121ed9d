"""What a store and a bus promise, as checks that anybody can run on an implementation of theirs.

Each check is an async function of a factory and a path that nothing lies at yet; its docstring states the
promise. It raises AssertionError, which tells what was found instead. No test framework is needed::

    for check in STORE_CHECKS:
        await check(make_store, folder / check.__name__)

*make_store* is called as ``make_store(path, clock=clock, owner="name")`` and gives a `antiphon.ports.Store`
that is not open yet. Several with one path are several processes on one database; *owner* names each.
For a database server, *path* is a name that is unique to the check. Time is the checks' own: a store asks
the clock that it is given and no other. The same goes for a factory of `antiphon.ports.Bus` and ``BUS_CHECKS``;
`bus_checks` gives those that hold for the abilities which a bus declares.
"""

from __future__ import annotations

from antiphon.testing.conformance.checks import BUS_CHECKS, STORE_CHECKS, bus_checks
from antiphon.testing.conformance.kit import BusCheck, MakeBus, MakeStore, StoreCheck
from antiphon.testing.conformance.log import read_backlog

__all__ = ["BUS_CHECKS", "STORE_CHECKS", "BusCheck", "MakeBus", "MakeStore", "StoreCheck", "bus_checks", "read_backlog"]
