"""The five recorded steps as a DBOS workflow. Run by the driver, in the environment that has DBOS: prints one object.

``python job.py URL ISOLATION THREADS RUNS KIND``; KIND ``rows``: each step writes a row of the application's own,
recorded in the same transaction, as Antiphon's do; ``plain``: steps that only record what they return, DBOS's cheapest.
"""

import json
import resource
import sqlite3
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import sqlalchemy as sa

from dbos import DBOS, SQLAlchemyDatasource

STEPS = 5
WARM_UP = 50


def measure(url: str, isolation: Any, threads: int, runs: int, kind: str) -> dict[str, float]:
    """So many workflows at once in each of *threads*: the rate, and the CPU of this process for each."""
    if url.startswith("sqlite:///"):
        with sqlite3.connect(url.removeprefix("sqlite:///")) as connection:
            connection.execute("PRAGMA journal_mode = WAL")
    DBOS(config={"name": "flows", "system_database_url": url, "log_level": "ERROR"})
    store = SQLAlchemyDatasource.create(url)
    with sa.create_engine(url).begin() as connection:
        connection.execute(sa.text("CREATE TABLE IF NOT EXISTS done (run INTEGER NOT NULL, step INTEGER NOT NULL)"))
    insert = sa.text("INSERT INTO done (run, step) VALUES (:run, :step)")

    @store.transaction(isolation_level=isolation)
    def work(run: int, step: int) -> int:
        store.sql_session().execute(insert, {"run": run, "step": step})
        return step

    @DBOS.step()
    def plain(run: int, step: int) -> int:
        return step

    recorded = work if kind == "rows" else plain

    @DBOS.workflow()
    def process(run: int) -> dict[str, int]:
        last = 0
        for step in range(STEPS):
            last = recorded(run, step)
        return {"n": run, "last": last}

    DBOS.launch()
    try:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(process, range(WARM_UP)))
            started, busy = time.perf_counter(), _cpu_seconds()
            list(pool.map(process, range(WARM_UP, WARM_UP + runs)))
            took, cpu = time.perf_counter() - started, _cpu_seconds() - busy
    finally:
        DBOS.destroy()
    return {"workflows_per_second": round(runs / took, 1), "cpu_us_per_workflow": round(cpu / runs * 1e6)}


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def administer(server: str, statement: str) -> None:
    """Run one statement on the PostgreSQL server."""
    import psycopg

    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(statement)


def main() -> None:
    """Measure; ``create`` and ``drop`` make and remove a database."""
    if sys.argv[1] in ("create", "drop"):
        verb, server, database = sys.argv[1:]
        options = " WITH (FORCE)" if verb == "drop" else ""
        exists = "IF EXISTS " if verb == "drop" else ""
        administer(server, f'{verb.upper()} DATABASE {exists}"{database}"{options}')
        return
    url, isolation, threads, runs, kind = sys.argv[1:]
    print(json.dumps(measure(url, isolation, int(threads), int(runs), kind)))


if __name__ == "__main__":
    main()
