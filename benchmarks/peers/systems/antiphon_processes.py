"""Antiphon: the same app and file; the shop publishes in one process, the handlers run in another."""

from __future__ import annotations

from benchmarks.peers.systems import antiphon_sqlite

DATABASE = antiphon_sqlite.DATABASE
WORKER = antiphon_sqlite.WORKER
EMBEDDED = False

prepare = antiphon_sqlite.prepare
publishing = antiphon_sqlite.publishing
clean = antiphon_sqlite.clean
