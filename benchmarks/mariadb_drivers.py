"""asyncmy, its statements prepared or written out, beside aiomysql at what the MariaDB store does: ADR 0019.

    python benchmarks/mariadb_drivers.py 127.0.0.1 3306 root

Each figure is the best of three runs of the same work in one transaction, in statements a second, beside the
microseconds of CPU of the client for each. It makes a database ``bench_drivers`` and drops it at the end. aiomysql is
no library of ours: where it is not installed, its lines are missing.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import asyncmy
from asyncmy.constants import CLIENT
from postgres_drivers import BATCH, COUNT, key, measure

UPSERT = "INSERT INTO t (k, n) VALUES ({m}, 1) ON DUPLICATE KEY UPDATE n = n + 1"
APPEND = "INSERT INTO log (seq, id, data) VALUES ({m}, {m}, {m}) ON DUPLICATE KEY UPDATE id = log.id"
READ = "SELECT seq, id, data FROM log WHERE seq > {m} ORDER BY seq LIMIT 256"
TABLES = (
    "CREATE OR REPLACE TABLE t (k VARCHAR(100) PRIMARY KEY, n INTEGER NOT NULL)",
    "CREATE OR REPLACE TABLE log (seq BIGINT PRIMARY KEY, id VARCHAR(100) NOT NULL UNIQUE, data LONGBLOB NOT NULL)",
)


def rows(start: int) -> list[tuple[int, str, bytes]]:
    """A batch to be appended."""
    return [(start + n, f"id-{start + n}", b"x" * 200) for n in range(BATCH)]


async def with_prepared(connection: Any) -> None:
    """The server binds the parameters."""
    upsert, append, read = [await connection.prepare(text.format(m="?")) for text in (UPSERT, APPEND, READ)]

    async def single() -> None:
        for n in range(COUNT):
            await upsert.execute((key(n),))
        await connection.commit()

    async def marked() -> None:
        for n in range(COUNT):
            await connection.query("SAVEPOINT a")
            await upsert.execute((key(n),))
        await connection.commit()

    async def many() -> None:
        await connection.query("DELETE FROM log")
        for start in range(0, COUNT, BATCH):
            await append.execute_bulk(rows(start))
        await connection.commit()

    async def fetch() -> None:
        for start in range(0, COUNT, BATCH):
            await read.execute((start - 1,))

    await report("asyncmy, prepared", single, marked, many, fetch)


async def with_texts(driver: str, connection: Any) -> None:
    """The driver writes the parameters into the statement's text."""
    cursor = connection.cursor()
    cursor = await cursor

    async def single() -> None:
        for n in range(COUNT):
            await cursor.execute(UPSERT.format(m="%s"), (key(n),))
        await connection.commit()

    async def marked() -> None:
        for n in range(COUNT):
            await cursor.execute("SAVEPOINT a")
            await cursor.execute(UPSERT.format(m="%s"), (key(n),))
        await connection.commit()

    async def many() -> None:
        await cursor.execute("DELETE FROM log")
        for start in range(0, COUNT, BATCH):
            await cursor.executemany(APPEND.format(m="%s"), rows(start))
        await connection.commit()

    async def fetch() -> None:
        for start in range(0, COUNT, BATCH):
            await cursor.execute(READ.format(m="%s"), (start - 1,))
            await cursor.fetchall()

    await report(driver, single, marked, many, fetch)


async def report(driver: str, single: Any, marked: Any, many: Any, fetch: Any) -> None:
    """All figures of one driver."""
    await measure(driver, "upserts, one after the other", COUNT, single)
    await measure(driver, "savepoint and upsert, each", COUNT, marked)
    try:
        await measure(driver, "rows inserted, 256 at a time", COUNT, many)
    except TypeError as error:
        print(f"{driver:16} cannot insert bytes: {error}")
        return
    await measure(driver, "rows read, 256 at a time", COUNT, fetch)


async def main(host: str, port: int, user: str) -> None:
    """All figures."""
    place = {"host": host, "port": port, "user": user}
    server = await asyncmy.connect(**place)
    await server.query("CREATE OR REPLACE DATABASE bench_drivers")
    try:
        await with_asyncmy(place)
        await with_aiomysql(place)
    finally:
        await server.query("DROP DATABASE bench_drivers")
        await server.ensure_closed()


async def with_asyncmy(place: dict[str, Any]) -> None:
    """Both ways."""
    connection = await asyncmy.connect(**place, database="bench_drivers", client_flag=CLIENT.FOUND_ROWS)
    try:
        for table in TABLES:
            await connection.query(table)
        await with_prepared(connection)
        await with_texts("asyncmy, texts", connection)
    finally:
        connection.close()


async def with_aiomysql(place: dict[str, Any]) -> None:
    """The other driver."""
    try:
        import aiomysql  # type: ignore[import-not-found,import-untyped,unused-ignore]
    except ImportError:
        print("aiomysql is not installed")
        return
    connection = await aiomysql.connect(**place, db="bench_drivers")
    try:
        await with_texts("aiomysql", connection)
    finally:
        connection.close()


if __name__ == "__main__":
    chosen = (*sys.argv[1:], *("127.0.0.1", "3306", "root")[len(sys.argv) - 1 :])
    asyncio.run(main(chosen[0], int(chosen[1]), chosen[2]))
