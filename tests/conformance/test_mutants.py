"""The checks find what they are there for: a store that is broken in one place fails at least one of them."""

from pathlib import Path

import pytest

from antiphon.store.sqlite import queries, unit
from antiphon.store.sqlite.bus import SqliteBus
from antiphon.store.sqlite.store import SqliteStore
from antiphon.store.sqlite.tail import Tail
from antiphon.testing.conformance import BUS_CHECKS, STORE_CHECKS
from tests.conformance.test_sqlite import make_bus, make_store

pytestmark = pytest.mark.anyio

# Block of SQL, what is in it, and what stands there in the mutant.
MUTANTS = [
    ("append_plain", "ON CONFLICT (id) DO NOTHING", "ON CONFLICT (id) DO UPDATE SET data = excluded.data"),
    ("move_position", "max(seq, excluded.seq)", "excluded.seq"),
    ("move_cursor", "AND epoch = ?6", "AND ?6 >= 0"),
    ("move_cursor", "max(seq, ?1)", "?1"),
    ("move_cursor", "CASE WHEN seq < ?1 THEN 0 ELSE strikes END", "strikes"),
    ("pause_handler", "AND epoch = ?", "AND ? >= 0"),
    ("take_lease", "epoch + 1", "epoch"),
    ("release_lease", "AND epoch = ?", "AND ? >= 0"),
    ("renew_leases", "SET lease_until_ms = ?", "SET lease_until_ms = min(?, lease_until_ms)"),
    ("release_running", "max(attempts - 1, 0)", "attempts"),
    ("suspect_running", "crashes + suspect", "crashes + 1"),
    ("suspect_running", "suspect = 1", "suspect = 0"),
    ("suspect_due", "suspect = 1", "suspect = 0"),
    ("promote_next", "SET due_ms = ?1", "SET due_ms = nullif(?1, ?1)"),
    ("due_deliveries", "d.due_ms <= ?2", "d.due_ms <= ?2 + 30000"),
    ("due_deliveries", "ORDER BY d.due_ms, d.seq", "ORDER BY d.seq"),
    ("open_keys", "AND status IN ('UNPROCESSED', 'IN_PROGRESS', 'RETRY')", "AND status IN ('RETRY')"),
    ("open_keys", "handler_id = ?", "handler_id <> ?"),
    ("read_owed", "origin <> 2", "origin >= 0"),
    ("put_timer", "CASE WHEN recurrence IS excluded.recurrence THEN due_ms ELSE excluded.due_ms END", "due_ms"),
    ("put_handler", "ON CONFLICT (name, part) DO NOTHING", "ON CONFLICT (name, part) DO UPDATE SET seq = excluded.seq"),
    ("due_timers", "due_ms <= ?", "due_ms <= ? + 30000"),
    ("end_timer", "WHERE id = ?", "WHERE id = ? AND 0"),
    ("latest_store_ms", "coalesce(", "0 * coalesce("),
    ("advance_position", "AND seq <= ?", "AND ? >= 0"),
    ("read_owed", "target IS NULL OR", "1 OR"),
    ("holds_lease", "AND epoch = ?", "AND ? >= 0"),
    ("put_effect", "result = excluded.result", "result = result"),
    ("lanes", "d.lane > found.lane", "d.lane < found.lane"),
    ("due_in_lane", "d.lane = ?4", "d.lane >= ?4"),
    ("read_owed", "bucket & ?5 = ?6", "bucket & ?5 >= ?6"),
    ("read_owed", "bucket & ?5 = ?6", "bucket & (?5 / 2) = ?6"),
    ("part_bucket", "l.bucket", "0 * l.bucket"),
    ("put_partition", "first_id, id), seq, service, seq,", "first_id, id), seq, service, 0 * seq,"),
    ("give_back_split", "epoch = epoch + 1", "epoch = epoch"),
    ("give_back_split", "owner = NULL", "owner = owner"),
]


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a mutant never brings is not waited for long."""
    monkeypatch.setattr("antiphon.testing.conformance.bus._PATIENCE_S", 2.0)
    monkeypatch.setattr("antiphon.testing.conformance.load.PATIENCE_S", 2.0)


async def survives(folder: Path) -> bool:
    """Whether no check fails."""
    try:
        for number, check in enumerate(STORE_CHECKS):
            await check(make_store, made(folder / f"store-{number}"))
        for number, bus_check in enumerate(BUS_CHECKS):
            await bus_check(make_bus, made(folder / f"bus-{number}"))
    except Exception:
        return False
    return True


def made(folder: Path) -> Path:
    """The folder, which is new."""
    folder.mkdir()
    return folder


@pytest.mark.parametrize(
    ("block", "found", "mutated"),
    # Each takes a good part of the suite: every second one here, the others in `make soak`.
    [*MUTANTS[::2], *(pytest.param(*each, marks=pytest.mark.soak) for each in MUTANTS[1::2])],
    ids=lambda text: str(text)[:24],
)
async def test_a_mutant_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: str, found: str, mutated: str
) -> None:
    """One changed condition in the SQL makes a check fail."""
    sql = queries.query(block)
    assert found in sql
    monkeypatch.setitem(queries.blocks(), block, sql.replace(found, mutated))
    monkeypatch.setattr(unit, "_APPEND", queries.query("append"))
    monkeypatch.setattr(unit, "_APPEND_PLAIN", queries.query("append_plain"))
    assert not await survives(tmp_path)


@pytest.mark.parametrize("broken", ["unit", "wake", "tail", "listen"])
async def test_a_broken_store_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str) -> None:
    """So does a store that keeps a unit that raised, wakes nobody, or remembers what is not in the log."""
    if broken == "unit":
        monkeypatch.setattr(unit.SqliteUnit, "rollback_to_savepoint", unit.SqliteUnit.savepoint)
    elif broken == "wake":
        monkeypatch.setattr(SqliteStore, "_committed", lambda *_: None)
    elif broken == "tail":
        monkeypatch.setattr(Tail, "read", lambda self, *_: self._events[:1])
    else:
        monkeypatch.setattr(SqliteBus, "listen", lambda *_: lambda: None)
    assert not await survives(tmp_path)
