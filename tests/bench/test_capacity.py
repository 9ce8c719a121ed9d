"""The plan for a million events: its arithmetic, its page, and that its figures can be measured."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from antiphon.testing.servers import NatsServer, PostgresServer
from benchmarks.capacity import Assumptions, Inputs, inputs_text, load, measured, plan, text
from tests.conftest import require

PAGE = Path(__file__).parents[2] / "docs" / "explanation" / "a-million-events.md"
ROUND = Inputs(
    date="2026-01-01",
    machine="two cores",
    load=0.0,
    sqlite_cpu_us=20.0,
    sqlite_written_bytes=1_000.0,
    sqlite_kept_bytes=300.0,
    postgres_app_cpu_us=50.0,
    postgres_server_cpu_us=32.0,
    postgres_wal_bytes=800.0,
    postgres_kept_bytes=500.0,
    nats_app_cpu_us=120.0,
    nats_server_cpu_us=90.0,
    nats_kept_bytes=700.0,
    wire_bytes=500.0,
    data_bytes=100.0,
)


def test_the_arithmetic() -> None:
    """With round figures each line is what a pencil gives."""
    assumed = Assumptions(rate=1_000_000, cores=16, busy=0.5, keep_hours=1, replicas=2, receivers=2)
    found = {row.what: row.count for row in plan(ROUND, assumed)}
    assert found["cells: a service process of one core, and its schema"] == "100"  # 50 s of CPU a second, by halves
    assert found["events/s of a cell"] == "10,000"
    assert found["PostgreSQL servers"] == "4"  # 32 s of CPU, of 8 in each
    assert found["write-ahead log of a server"] == "200 MB/s"
    assert found["disks of all servers"] == "4 TB"  # 500 bytes, 3.6 thousand million events, twice
    assert found["*or* cells on SQLite files, a core each"] == "40"
    assert found["*if all events leave their cell:* cores of NATS"] == "360"
    assert found["... of the services, more"] == "200"
    assert found["... network, in and out"] == "12.0 Gbit/s"


def test_the_page_says_what_the_script_prints() -> None:
    """The tables of the page are those of ``python -m benchmarks.capacity``."""
    page = PAGE.read_text(encoding="utf-8")
    assert inputs_text(load()) in page
    assert text(load(), Assumptions()) in page


@pytest.mark.anyio
async def test_everything_is_measured() -> None:
    """On servers of its own; each figure is more than nothing, and the wire carries more than the data."""
    require("a PostgreSQL to start", PostgresServer.is_there())
    require("a NATS to start", NatsServer.is_there())
    found = await measured(1_024)
    assert {name: value for name, value in msgspec.structs.asdict(found).items() if name != "load" and not value} == {}
    assert found.wire_bytes > found.data_bytes
