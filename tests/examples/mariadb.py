"""MariaDB under the examples: its connections broken, and the audit's questions in its words."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping

from antiphon.demo.audit import UNITED, questions
from examples.flight_booking.demo import subject
from tests.store.mariadb import asked


async def all_broken(url: str) -> int:
    """How many connections the server was told to end."""
    from antiphon.store.mariadb.connection import prefix_of

    prefix = prefix_of(url)
    found = await asked(
        url, f"SELECT id FROM information_schema.processlist WHERE left(db, {len(prefix)}) = '{prefix}'"
    )
    # One that has gone by itself meanwhile is broken already.
    ended = await asyncio.gather(
        *(asked(url, f"KILL CONNECTION {number}") for (number,) in found), return_exceptions=True
    )
    return sum(not isinstance(each, Exception) for each in ended)


async def audit(url: str, accepted: Iterable[str], received: Mapping[str, int]) -> dict[str, int]:
    """The answers to the questions of the demo's audit, each service's tables in the database of its name."""
    from antiphon.store.mariadb.connection import address, connect, prefix_of
    from antiphon.store.mariadb.statements import understood

    booked = subject()
    prefix = prefix_of(url)
    services = list(booked.app.services)
    session = await connect(address(url, services[0]))
    try:
        await session.ask(f"CREATE TEMPORARY TABLE accepted ({booked.id_field} VARCHAR(64) PRIMARY KEY)")
        await session.ask("CREATE TEMPORARY TABLE received (message_id VARCHAR(255) PRIMARY KEY, times INTEGER)")
        await session.run_many("INSERT INTO accepted VALUES (?)", [(each,) for each in accepted])
        await session.run_many("INSERT INTO received VALUES (?, ?)", list(received.items()))
        for name, rows in UNITED.items():
            every = " UNION ALL ".join(f"SELECT * FROM {prefix}{service}.{rows}" for service in services)
            await session.ask(f"CREATE VIEW {name} AS {every}")
        answers = {}
        for name, sql in questions(booked).items():
            for service in services:
                sql = sql.replace(f" {service}.", f" {prefix}{service}.")
            sql = sql.replace("total(", "sum(").replace("BY key", "BY `key`")
            found = (await session.run(understood(sql))).rows
            answers[name] = int(found[0][0] or 0)
        return answers
    finally:
        await session.close()
