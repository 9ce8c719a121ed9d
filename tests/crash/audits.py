"""What must hold in the databases of any application that has been killed, restarted, and left to finish.

A finding is a text that begins with ``lost``, ``doubled``, ``disordered`` or ``broken``, and how often it was found.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

BUS = "bus"
#: A schedule goes on while an application is stopped, so its last ticks may be unhandled.
_NO_TICK = "MESSAGE_TYPE NOT LIKE 'antiphon.tick.%'"

_UNDER_WAY = {
    "lost: events that a handler has not completed": (
        f"SELECT count(*) FROM antiphon_events WHERE STATUS IN ('UNPROCESSED', 'IN_PROGRESS', 'RETRY') AND {_NO_TICK}"
    ),
    "lost: delayed events that were never published": "SELECT count(*) FROM antiphon_timers WHERE recurrence IS NULL",
}
DEAD_LETTERS = "lost: dead letters"
_OF_EACH_STORE = {
    **_UNDER_WAY,
    DEAD_LETTERS: "SELECT count(*) FROM antiphon_dead_letters",
    "doubled: what one event caused, twice": (
        "SELECT total(times - 1) FROM (SELECT count(*) AS times FROM antiphon_log"
        " WHERE origin <> 1 AND causation_id IS NOT NULL GROUP BY causation_id, type, service)"
    ),
    "doubled: deliveries that were completed twice": (
        "SELECT total(times - 1) FROM (SELECT count(*) AS times FROM antiphon_attempts"
        " WHERE outcome = 'completed' GROUP BY handler_id, seq)"
    ),
    "doubled: deliveries counted as handled, beyond those that are": (
        "SELECT total(abs(h.handled - (SELECT count(*) FROM antiphon_events AS e"
        " WHERE e.HANDLER = h.name AND e.STATUS = 'COMPLETED')))"
        " FROM (SELECT name, sum(handled) AS handled FROM antiphon_handlers GROUP BY name) AS h"
    ),
    "broken: events whose cause is not known": (
        "SELECT count(*) FROM antiphon_log AS l WHERE origin <> 1 AND causation_id IS NOT NULL"
        " AND NOT EXISTS (SELECT 1 FROM antiphon_log AS cause WHERE cause.id = l.causation_id)"
    ),
    "broken: handlers ahead of the log": (
        "SELECT count(*) FROM antiphon_handlers WHERE seq > (SELECT coalesce(max(seq), 0) FROM antiphon_log)"
    ),
}
#: For the bus: its handlers are the services that receive, which count nothing.
_OF_THE_BUS = ("broken: handlers ahead of the log",)


def stores_in(data: Path) -> list[Path]:
    """The databases of services in a directory."""
    return sorted(path for path in data.glob("*.db") if path.stem != BUS)


@contextmanager
def reading(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection that writes nothing."""
    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=5)) as connection:
        yield connection


def findings(data: Path) -> Counter[str]:
    """All that is wrong in the databases of *data*, which nobody has open."""
    found: Counter[str] = Counter()
    for path in [*stores_in(data), *data.glob(f"{BUS}.db")]:
        with reading(path) as connection:
            found["broken: not sound"] += connection.execute("PRAGMA integrity_check").fetchall() != [("ok",)]
            found["broken: references"] += len(connection.execute("PRAGMA foreign_key_check").fetchall())
            for finding, sql in _OF_EACH_STORE.items():
                if path.stem != BUS or finding in _OF_THE_BUS:
                    found[finding] += int(connection.execute(sql).fetchone()[0])
    if (data / f"{BUS}.db").exists():
        found += _carried(data)
    return +found


def under_way(data: Path) -> int:
    """How much the processes that run on *data* have still to do; 0 when all has come to its end."""
    left = 0
    for path in stores_in(data):
        with reading(path) as connection:
            left += sum(int(connection.execute(sql).fetchone()[0]) for sql in _UNDER_WAY.values())
    if not left and (data / f"{BUS}.db").exists():
        left = _carried(data).total()
    return left


def interrupted(data: Path) -> int:
    """How many attempts ended with their process, as far as that was noted: those outside a batch."""
    count = 0
    for path in stores_in(data):
        with reading(path) as connection:
            sql = "SELECT count(*) FROM antiphon_attempts WHERE outcome = 'crashed'"
            count += connection.execute(sql).fetchone()[0]
    return count


def _carried(data: Path) -> Counter[str]:
    """What is wrong between the stores: each carries to the bus what it publishes, and takes what it handles."""
    found: Counter[str] = Counter()
    with reading(data / f"{BUS}.db") as bus:
        for path in stores_in(data):
            service = path.stem
            sent = _ids(bus, "WHERE service = ?", service)
            with reading(path) as store:
                published = _ids(store, "WHERE origin = 0")
                types = [row[0] for row in store.execute("SELECT DISTINCT type FROM antiphon_subscriptions")]
                taken = _ids(store, "WHERE origin = 1")
            marks = ", ".join("?" * len(types))
            offered = _ids(bus, f"WHERE service <> ? AND type IN ({marks})", service, *types)
            for between, left, right in (("to", published, sent), ("from", offered, taken)):
                found[f"lost: on the way {between} the bus"] += len(set(left) - set(right))
                found[f"broken: known only at the end of the way {between} the bus"] += len(set(right) - set(left))
                found[f"disordered: on the way {between} the bus"] += left != right and set(left) == set(right)
    return +found


def _ids(connection: sqlite3.Connection, where: str, *parameters: str) -> list[str]:
    return [row[0] for row in connection.execute(f"SELECT id FROM antiphon_log {where} ORDER BY seq", parameters)]
