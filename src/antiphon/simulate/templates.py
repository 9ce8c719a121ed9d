"""The database files with which a world begins: made once for an app, then copied."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from antiphon.app import App
from antiphon.store.sqlite.connection import connect
from antiphon.store.sqlite.migrations import make_tables, migrate, run_script

_MADE: dict[tuple[str, str, tuple[tuple[str, str], ...]], bytes] = {}


def templates(app: App, extra: str) -> dict[str, bytes]:
    """The content of each database file of *app*, by file name, with the tables of a script *extra* in each."""
    if app.own_stores:
        plan = {f"{spec.name}.db": {spec.name: spec.tables} for spec in app.specs}
        plan["bus.db"] = {}
    else:
        plan = {f"{app.name}.db": {spec.name: spec.tables for spec in app.specs}}
    return {name: _template(name, tables, extra) for name, tables in plan.items()}


def _template(name: str, tables: dict[str, str], extra: str) -> bytes:
    key = (name, extra, tuple(sorted(tables.items())))
    if key not in _MADE:
        with TemporaryDirectory(prefix="antiphon-") as folder:
            path = Path(folder) / name
            connection = connect(path)
            connection.execute("BEGIN IMMEDIATE")
            migrate(connection, path)
            for service, sql in tables.items():
                make_tables(connection, service, sql)
            run_script(connection, extra)
            connection.execute("COMMIT")
            connection.close()
            _MADE[key] = path.read_bytes()
    return _MADE[key]
