"""asyncpg beside psycopg 3 at what the PostgreSQL store does: what decided ADR 0015.

    python benchmarks/postgres_drivers.py postgresql://postgres@127.0.0.1/test

Each figure is the best of three runs of the same work in one transaction, in statements a second, beside the
microseconds of CPU of the client for each. It makes a temporary table and leaves nothing. asyncpg is
no library of ours: where it is not installed, its lines are missing.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable

import psycopg
from psycopg import AsyncConnection, AsyncRawCursor

COUNT, BATCH, KEYS = 2_000, 256, 500
UPSERT = b"INSERT INTO t VALUES ($1, 1) ON CONFLICT (k) DO UPDATE SET n = t.n + 1"
TABLE = "CREATE TEMPORARY TABLE t (k text PRIMARY KEY, n int NOT NULL)"
APPEND = "INSERT INTO t SELECT DISTINCT k, 1 FROM unnest($1::text[]) AS k ON CONFLICT (k) DO UPDATE SET n = t.n + 1"
READ = (
    "SELECT n AS seq, 'id' || n, 'type', 1, 'key', 'service', 1.5::float8, NULL, '\\x616263'::bytea"
    " FROM generate_series(1, 256) AS n"
)
MARK = (b"RELEASE a", b"SAVEPOINT a")

Work = Callable[[], Awaitable[None]]


def key(n: int) -> str:
    """The key of upsert number *n*."""
    return f"key-{n % KEYS}"


async def measure(driver: str, what: str, count: int, work: Work) -> None:
    """Print what *work*, of *count* statements or rows, comes to."""
    rates, costs = [], []
    for _ in range(3):
        started, cpu = time.perf_counter(), time.process_time()
        await work()
        rates.append(count / (time.perf_counter() - started))
        costs.append((time.process_time() - cpu) / count * 1e6)
    print(f"{driver:16} {what:34} {max(rates):9,.0f}/s {min(costs):6.1f} us")


async def with_asyncpg(url: str) -> None:
    """asyncpg's figures."""
    try:
        import asyncpg  # type: ignore[import-not-found,import-untyped,unused-ignore]
    except ImportError:
        print("asyncpg          is not installed")
        return
    connection = await asyncpg.connect(url)
    await connection.execute(TABLE)

    async def single() -> None:
        async with connection.transaction():
            for n in range(COUNT):
                await connection.execute(UPSERT.decode(), key(n))

    async def marked() -> None:
        async with connection.transaction():
            await connection.execute("SAVEPOINT a")
            for n in range(COUNT):
                await connection.execute("RELEASE a; SAVEPOINT a")
                await connection.execute(UPSERT.decode(), key(n))

    async def many() -> None:
        await connection.executemany(UPSERT.decode(), [(key(n),) for n in range(COUNT)])

    async def append() -> None:
        for start in range(0, COUNT, BATCH):
            await connection.execute(APPEND, [key(start + n) for n in range(BATCH)])

    async def read() -> None:
        for _ in range(COUNT // BATCH):
            await connection.fetch(READ)

    await report("asyncpg", single, marked, many, append, read)
    await connection.close()


async def with_psycopg(url: str, prepare: int | None) -> None:
    """psycopg's figures; *prepare* is after how many uses a statement is prepared (None: never, as behind a pooler)."""
    connection = await AsyncConnection.connect(url, autocommit=True, prepare_threshold=prepare)
    await connection.execute(TABLE)  # type: ignore[arg-type,unused-ignore]
    cursor = AsyncRawCursor(connection)

    async def single() -> None:
        async with connection.transaction():
            for n in range(COUNT):
                await cursor.execute(UPSERT, (key(n),))

    async def marked() -> None:
        async with connection.transaction():
            await connection.execute(b"SAVEPOINT a")
            for n in range(COUNT):
                async with connection.pipeline():
                    for text in MARK:
                        await connection.execute(text)
                    await cursor.execute(UPSERT, (key(n),))

    async def many() -> None:
        async with connection.transaction():
            await cursor.executemany(UPSERT, [(key(n),) for n in range(COUNT)])

    async def append() -> None:
        for start in range(0, COUNT, BATCH):
            await cursor.execute(APPEND.encode(), ([key(start + n) for n in range(BATCH)],))

    async def read() -> None:
        for _ in range(COUNT // BATCH):
            await (await cursor.execute(READ.encode())).fetchall()

    name = "psycopg" if prepare is not None else "psycopg, pooled"
    await report(name, single, marked, many, append, read)
    await connection.close()


async def report(driver: str, single: Work, marked: Work, many: Work, append: Work, read: Work) -> None:
    """All figures of one driver."""
    await measure(driver, "upserts, one after the other", COUNT, single)
    await measure(driver, "savepoint and upsert, each", COUNT, marked)
    await measure(driver, "upserts, sent together", COUNT, many)
    await measure(driver, "rows inserted by arrays", COUNT, append)
    await measure(driver, "rows read, 256 at a time", COUNT // BATCH * BATCH, read)


async def main(url: str) -> None:
    """All figures."""
    print(f"psycopg {psycopg.__version__}")
    await with_asyncpg(url)
    await with_psycopg(url, 5)
    await with_psycopg(url, None)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if sys.argv[1:] else "postgresql://postgres@127.0.0.1:5432/test"))
