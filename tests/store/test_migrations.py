"""A file of an older version is brought up to date at open, with all that it holds."""

import sqlite3
from pathlib import Path

import pytest

from antiphon.store.sqlite.migrations import MIGRATIONS, run_script
from antiphon.store.sqlite.queries import text
from antiphon.store.sqlite.store import SqliteStore
from antiphon.testing.clock import VirtualClock

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("version", range(1, len(MIGRATIONS)))
async def test_an_older_file_keeps_what_it_holds(tmp_path: Path, version: int) -> None:
    """Each version before this one is migrated; its events read as they were, as plain events of nobody's command."""
    path = tmp_path / "shop.db"
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("CREATE TABLE antiphon_meta (name TEXT PRIMARY KEY, value) WITHOUT ROWID")
    for name in MIGRATIONS[:version]:
        run_script(connection, text(name))
    connection.execute("INSERT INTO antiphon_meta VALUES ('version', ?)", (version,))
    connection.execute(
        "INSERT INTO antiphon_log (id, type, version, service, time_ms, data) VALUES ('e-1', 'T', 1, 'shop', 5, '{}')"
    )
    connection.close()
    store = SqliteStore(path, clock=VirtualClock(), owner="one")
    await store.open()
    try:
        (event,) = await store.read_log(0, 10)
        envelope = event.envelope
        assert (envelope.id, envelope.kind, envelope.target, envelope.deadline_ms) == ("e-1", "event", None, None)
        assert dict(await store.fetch_all("SELECT name, value FROM antiphon_meta"))["version"] == len(MIGRATIONS)
        assert await store.fetch_all("SELECT * FROM antiphon_requests") == []
    finally:
        await store.close()
