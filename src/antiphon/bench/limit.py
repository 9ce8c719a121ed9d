"""The limit: the chain as a loop of batched SQL written by hand, on a store's own tables and settings.

No framework, no validation, no savepoints, no leases; data is decoded only where a row needs a field of
it. What it writes is what the framework writes: the same log rows with all indexes, accounts, totals,
cursors and progress, in one commit per batch, synchronous=FULL.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import msgspec

from antiphon.bench import workload
from antiphon.model.envelope import Envelope
from antiphon.ports import Clock
from antiphon.runtime.clock import SystemClock
from antiphon.store.sqlite.connection import connect
from antiphon.store.sqlite.queries import query
from antiphon.store.sqlite.store import CHECKPOINT_BYTES
