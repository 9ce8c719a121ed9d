"""The plan for a million events a second, from figures that this machine gives.

    python -m benchmarks.capacity                       # the plan, from the saved figures
    python -m benchmarks.capacity --measure --save      # measured anew, with servers of its own (a minute)
    python -m benchmarks.capacity --rate 50000 --cores 8 --keep-hours 24

An event is published, kept, carried and handled once, by a handler that upserts a row: an order of the chain is two.
What is measured is CPU and bytes of an event, which a busy machine changes little; rates of machines follow from them
by the assumptions that are printed with the plan.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import math
import os
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from antiphon.bench import workload
from antiphon.bench.chain import through
from antiphon.broker.connecting import bus_at
from antiphon.model.retry import days
from antiphon.runtime.runtime import Runtime
from antiphon.store.base import SqlStore
from antiphon.wire import to_structured

SAVED = Path(__file__).with_suffix(".json")
#: Events of an order: it is placed, and it is billed.
_HOPS = 2
_WARM = 1_024
_SAMPLE = 512
#: Services that read the broker's stream while it is measured.
_RECEIVERS = 2
_HOURS = 730
_TICK = os.sysconf("SC_CLK_TCK")


class Inputs(msgspec.Struct, frozen=True):
    """What an event takes. CPU in microseconds: of the service's process, and of a server's."""

    date: str
    machine: str
    load: float
    sqlite_cpu_us: float
    sqlite_written_bytes: float
    sqlite_kept_bytes: float
    postgres_app_cpu_us: float
    postgres_server_cpu_us: float
    postgres_wal_bytes: float
    postgres_kept_bytes: float
    nats_app_cpu_us: float
    nats_server_cpu_us: float
    nats_kept_bytes: float
    wire_bytes: float
    data_bytes: float


class Assumptions(NamedTuple):
    """What nobody has measured here."""

    rate: int = 1_000_000
    cores: int = 16
    busy: float = 0.6
    keep_hours: float = 24.0
    replicas: int = 3
    receivers: int = 2
    core_hour: float = 0.04
    tb_month: float = 80.0


class Row(NamedTuple):
    """One line of the plan."""

    what: str
    count: str
    how: str


# ---------------------------------------------------------------------- measuring


def _cpu_s(pid: int) -> float:
    """Seconds of CPU of a process and of all that it has started, those that have ended included."""
    own: dict[int, float] = {}
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it has just ended
        own[int(folder.name)] = sum(map(int, fields[11:15])) / _TICK
        children.setdefault(int(fields[1]), []).append(int(folder.name))
    waiting, total = [pid], 0.0
    while waiting:
        one = waiting.pop()
        total += own.get(one, 0.0)
        waiting += children.get(one, [])
    return total


def _written() -> int:
    """Bytes that this process has had written to disks."""
    text = Path("/proc/self/io").read_text()
    return int(text.partition("\nwrite_bytes: ")[2].partition("\n")[0])


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


async def _of_sqlite(events: int) -> dict[str, float]:
    """One file for all services."""
    with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix=".antiphon-bench-") as folder:
        runtime = Runtime("bench", [each.spec for each in workload.services()], data=Path(folder))
        await runtime.start()
        await through(runtime, _WARM)
        written, kept = _written(), _size(Path(folder))
        _, cpu_s = await through(runtime, events)
        sizes = await _sizes(runtime)
        await runtime.stop()
        count = events * _HOPS
        return {
            "sqlite_cpu_us": cpu_s / count * 1e6,
            "sqlite_written_bytes": (_written() - written) / count,
            "sqlite_kept_bytes": (_size(Path(folder)) - kept) / count,
        } | sizes


async def _sizes(runtime: Runtime) -> dict[str, float]:
    """What the events of the chain take on the wire, and their data alone."""
    store: SqlStore = runtime.stores["shop"]
    events = [
        each.envelope
        for type_ in ("OrderPlaced", "OrderBilled")
        for each in await store.read_types({type_: 0}, _SAMPLE)
    ]
    assert len(events) == _HOPS * _SAMPLE
    return {
        "wire_bytes": sum(len(to_structured(each)) for each in events) / len(events),
        "data_bytes": sum(len(each.data) for each in events) / len(events),
    }


async def _of_postgres(events: int) -> dict[str, float]:
    """One schema for all services, on a server of our own."""
    import psycopg

    from antiphon.testing.servers import PostgresServer, running

    def asked(sql: str) -> Any:
        with psycopg.connect(server.url, autocommit=True) as connection:
            row = connection.execute(sql.encode()).fetchone()
        assert row is not None
        return row[0]

    specs = [each.spec for each in workload.services()]
    specs = [dataclasses.replace(each, tables=each.tables.replace(") WITHOUT ROWID;", ");")) for each in specs]
    async with running(PostgresServer) as server:
        process = server._process
        assert process is not None
        with tempfile.TemporaryDirectory() as folder:
            runtime = Runtime("bench", specs, data=Path(folder), store=server.url)
            await runtime.start()
            await through(runtime, _WARM)
            size = "SELECT pg_total_relation_size('bench.antiphon_log')"
            wal, kept, busy = asked("SELECT pg_current_wal_lsn()::text"), asked(size), _cpu_s(process.pid)
            _, cpu_s = await through(runtime, events)
            count = events * _HOPS
            found = {
                "postgres_app_cpu_us": cpu_s / count * 1e6,
                "postgres_server_cpu_us": (_cpu_s(process.pid) - busy) / count * 1e6,
                "postgres_wal_bytes": float(asked(f"SELECT pg_current_wal_lsn() - '{wal}'::pg_lsn")) / count,
                "postgres_kept_bytes": (asked(size) - kept) / count,
            }
            await runtime.stop()
            return found


async def _of_nats(events: int) -> dict[str, float]:
    """A file for each service, joined by a server of our own: what the way costs on top of a file."""
    from antiphon.testing.servers import NatsServer, running

    async with running(NatsServer) as server:
        process = server._process
        assert process is not None
        with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix=".antiphon-bench-") as folder:
            make = bus_at(server.url, "capacity", keep=days(1))
            specs = [each.spec for each in workload.services()]
            runtime = Runtime("bench", specs, data=Path(folder), own_stores=True, make_bus=make)
            await runtime.start()
            await through(runtime, _WARM)
            busy, kept = _cpu_s(process.pid), _size(server.folder)
            _, cpu_s = await through(runtime, events)
            count = events * _HOPS
            found = {
                "nats_app_cpu_us": cpu_s / count * 1e6,
                "nats_server_cpu_us": (_cpu_s(process.pid) - busy) / count * 1e6,
                "nats_kept_bytes": (_size(server.folder) - kept) / count,
            }
            await runtime.stop()
            return found


async def measured(events: int) -> Inputs:
    """All of it, one after the other."""
    import datetime
    import platform

    found = await _of_sqlite(events) | await _of_postgres(events) | await _of_nats(events)
    return Inputs(
        date=datetime.datetime.now(datetime.UTC).date().isoformat(),
        machine=f"{os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}",
        load=round(os.getloadavg()[0], 1),
        **{name: round(value, 1) for name, value in found.items()},
    )


# ---------------------------------------------------------------------- the plan


def plan(inputs: Inputs, assumed: Assumptions) -> list[Row]:
    """What a rate takes: cells that share nothing, each with a part of the keys."""
    rate, core = assumed.rate, assumed.busy * 1e6
    seconds, copies = assumed.keep_hours * 3600, assumed.replicas
    cells = math.ceil(rate * inputs.postgres_app_cpu_us / core)
    servers = math.ceil(rate * inputs.postgres_server_cpu_us / (core * assumed.cores))
    kept = inputs.postgres_kept_bytes * seconds * rate * copies / 1e12
    files = math.ceil(rate * inputs.sqlite_cpu_us / core)
    carried = inputs.nats_server_cpu_us * (1 + assumed.receivers) / (1 + _RECEIVERS)
    brokers = math.ceil(rate * carried * copies / core)
    sending = max(0.0, inputs.nats_app_cpu_us - inputs.sqlite_cpu_us)
    senders = math.ceil(rate * sending / core)
    wire = inputs.wire_bytes * rate * (1 + assumed.receivers) * 8 / 1e9
    carried_kept = inputs.nats_kept_bytes * copies * seconds * rate / 1e12
    cores = cells + servers * assumed.cores * copies
    price = cores * _HOURS * assumed.core_hour + kept * assumed.tb_month
    return [
        Row(
            "cells: a service process of one core, and its schema",
            f"{cells:,}",
            f"{inputs.postgres_app_cpu_us:.0f} µs of the process an event",
        ),
        Row("events/s of a cell", f"{rate / cells:,.0f}", "keys are spread evenly"),
        Row("PostgreSQL servers", f"{servers:,}", f"{inputs.postgres_server_cpu_us:.0f} µs of the server an event"),
        Row("cells on a server", f"{math.ceil(cells / servers):,}", ""),
        Row(
            "write-ahead log of a server",
            f"{inputs.postgres_wal_bytes * rate / servers / 1e6:,.0f} MB/s",
            f"{inputs.postgres_wal_bytes:.0f} bytes an event; a copy's network the same",
        ),
        Row(
            "disks of all servers",
            f"{kept:,.0f} TB",
            f"{inputs.postgres_kept_bytes:.0f} bytes an event, {assumed.keep_hours:g} h, {copies} copies",
        ),
        Row(
            "a month of it",
            f"{price:,.0f} $",
            f"{cores:,} cores, standbys included, at {assumed.core_hour:g} $ an hour; {assumed.tb_month:g} $ a TB",
        ),
        Row("*or* cells on SQLite files, a core each", f"{files:,}", f"{inputs.sqlite_cpu_us:.0f} µs an event"),
        Row(
            "written to the disks of those",
            f"{inputs.sqlite_written_bytes * rate / 1e9:,.1f} GB/s",
            f"{inputs.sqlite_written_bytes:,.0f} bytes an event",
        ),
        Row(
            "*if all events leave their cell:* cores of NATS",
            f"{brokers:,}",
            f"{carried:.0f} µs an event and copy, {copies} copies, {assumed.receivers} receivers",
        ),
        Row("... of the services, more", f"{senders:,}", f"{sending:.0f} µs to send an event and to receive it"),
        Row("... network, in and out", f"{wire:,.1f} Gbit/s", f"{inputs.wire_bytes:.0f} bytes an event"),
        Row(
            "... disks of the broker",
            f"{carried_kept:,.0f} TB",
            f"{inputs.nats_kept_bytes:.0f} bytes an event, {assumed.keep_hours:g} h, {copies} copies",
        ),
    ]


def text(inputs: Inputs, assumed: Assumptions) -> str:
    """The plan as a table, below what it rests on."""
    lines = [
        f"Measured on {inputs.date} ({inputs.machine}, load {inputs.load}); {assumed.rate:,} events/s, servers with "
        f"{assumed.cores} cores of which {assumed.busy:.0%} are used.",
        "",
        "| What | How much | From |",
        "|---|---|---|",
        *(f"| {row.what} | {row.count} | {row.how} |" for row in plan(inputs, assumed)),
    ]
    return "\n".join(lines)


def inputs_text(inputs: Inputs) -> str:
    """What was measured, as a table."""
    lines = ["| Of one event | Measured |", "|---|---|"]
    for name, value in msgspec.structs.asdict(inputs).items():
        if isinstance(value, float) and name != "load":
            what, _, unit = name.replace("_cpu_us", "_CPU_us").rpartition("_")
            lines.append(f"| {what.replace('_', ' ')} | {value:,.0f} {'µs' if unit == 'us' else unit} |")
    return "\n".join(lines)


def main() -> None:
    """Measure if asked to, and print the plan."""
    usual = Assumptions()
    parser = argparse.ArgumentParser(description="The plan for a million events a second, from measured figures.")
    parser.add_argument("--measure", action="store_true", help="measure instead of reading what was saved")
    parser.add_argument("--events", type=int, default=20_000, help="orders of each measurement (20,000)")
    parser.add_argument("--save", action="store_true", help="keep what was measured")
    parser.add_argument("--json", action="store_true", help="print the figures as one JSON object")
    parser.add_argument("--rate", type=int, default=usual.rate, help="events a second (1,000,000)")
    parser.add_argument("--cores", type=int, default=usual.cores, help="of a server (16)")
    parser.add_argument("--busy", type=float, default=usual.busy, help="the share of them that is used (0.6)")
    parser.add_argument("--keep-hours", type=float, default=usual.keep_hours, help="how long events are kept (24)")
    parser.add_argument("--replicas", type=int, default=usual.replicas, help="copies that a broker keeps (3)")
    parser.add_argument("--receivers", type=int, default=usual.receivers, help="services that read an event (2)")
    parser.add_argument("--core-hour", type=float, default=usual.core_hour, help="its price, $ (0.04)")
    parser.add_argument("--tb-month", type=float, default=usual.tb_month, help="the price of a TB of disk, $ (80)")
    options = parser.parse_args()
    inputs = asyncio.run(measured(options.events)) if options.measure else load()
    if options.save:
        SAVED.write_bytes(msgspec.json.format(msgspec.json.encode(inputs)) + b"\n")
    given = Assumptions(**{name: getattr(options, name) for name in Assumptions._fields})
    if options.json:
        print(
            json.dumps(
                {"inputs": msgspec.structs.asdict(inputs), "plan": [row._asdict() for row in plan(inputs, given)]}
            )
        )
    else:
        print(f"{inputs_text(inputs)}\n\n{text(inputs, given)}")


def load() -> Inputs:
    """What was saved."""
    return msgspec.json.decode(SAVED.read_bytes(), type=Inputs)


if __name__ == "__main__":
    main()
