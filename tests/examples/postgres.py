"""PostgreSQL under the examples: its connections broken, and the audit's questions in its words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from antiphon.demo.audit import UNITED, questions
from examples.flight_booking.demo import subject
from tests.store.postgres import OTHERS, asked


async def all_broken(url: str) -> int:
    """How many connections the server was told to end."""
    return int(asked(url, "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity" + OTHERS))


async def audit(url: str, accepted: Iterable[str], received: Mapping[str, int]) -> dict[str, int]:
    """The answers to the questions of the demo's audit, each service's tables in the schema of its name."""
    import psycopg

    booked = subject()
    services = list(booked.app.services)
    with psycopg.connect(url) as connection:
        connection.execute(f"CREATE TEMP TABLE accepted ({booked.id_field} TEXT PRIMARY KEY)".encode())
        connection.execute(b"CREATE TEMP TABLE received (message_id TEXT PRIMARY KEY, times INTEGER)")
        with connection.cursor() as cursor:
            cursor.executemany(b"INSERT INTO accepted VALUES (%s)", [(each,) for each in accepted])
            cursor.executemany(b"INSERT INTO received VALUES (%s, %s)", list(received.items()))
        for name, rows in UNITED.items():
            every = " UNION ALL ".join(f"SELECT * FROM {service}.{rows}" for service in services)
            connection.execute(f"CREATE TEMP VIEW {name} AS {every}".encode())
        answers = {}
        for name, sql in questions(booked).items():
            row = connection.execute(sql.replace("total(", "sum(").encode()).fetchone()
            answers[name] = int(row[0] or 0) if row is not None else 0
        connection.rollback()
    return answers
