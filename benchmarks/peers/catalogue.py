"""What is compared: who, on what, with which settings, and what its documentation promises."""

from __future__ import annotations

from typing import NamedTuple


class Entry(NamedTuple):
    """A system of the comparison.

    *promise* is what its documentation says of an event whose worker is killed. *by_timeout*: such an event comes again
    when a time is over, so that it has to be waited for.
    """

    title: str
    libraries: tuple[str, ...]
    server: str
    effects: str
    settings: str
    durable: str
    promise: str
    by_timeout: bool = False
    phases: tuple[str, ...] = ("steady", "kill")


_SQLITE = "SQLite, WAL, `synchronous=FULL`, a commit for each write"
_IN_REDIS = "no: this Redis keeps nothing on disk"

CATALOGUE: dict[str, Entry] = {
    "antiphon_sqlite": Entry(
        title="Antiphon, SQLite",
        libraries=("antiphon",),
        server="",
        effects="the same file and transaction, WAL, `synchronous=FULL`",
        settings="Embedded: three services share one file and are handled in the publishing process. Defaults. "
        "In the kill test the handlers have a process of their own, `antiphon run`.",
        durable="yes, before `publish` returns",
        promise="effectively once",
    ),
    "antiphon_processes": Entry(
        title="Antiphon, SQLite, two processes",
        libraries=("antiphon",),
        server="",
        effects="the same file and transaction, WAL, `synchronous=FULL`",
        settings="The same app; its handlers run in a process of their own, `antiphon run`, all along.",
        durable="yes, before `publish` returns",
        promise="effectively once",
    ),
    "limit": Entry(
        title="Hand-written limit, SQLite",
        libraries=("antiphon",),
        server="",
        effects="the same file and transaction, WAL, `synchronous=FULL`",
        settings="A loop of batched SQL in one process that leaves the same log rows, 256 events to a commit, "
        "without validation, "
        "leases, retries or recovery: what the disk and SQLite allow. Its figures are no system's.",
        durable="yes",
        promise="nothing",
        phases=("loop",),
    ),
    "faststream_jetstream": Entry(
        title="FastStream, NATS JetStream",
        libraries=("faststream", "nats-py"),
        server="nats",
        effects=_SQLITE,
        settings="One worker process; a stream in files, durable pull consumers that take 100 at a time, `ack_wait` "
        "5 s; 64 publishing "
        "tasks, each waits for the server's acknowledgement. Pydantic models.",
        durable="written, synced every 2 minutes (the server's default)",
        promise="at least once",
        by_timeout=True,
    ),
    "faststream_nats": Entry(
        title="FastStream, core NATS",
        libraries=("faststream", "nats-py"),
        server="nats",
        effects=_SQLITE,
        settings="One worker process; 64 publishing tasks. Nothing is kept for a worker that is not there. Pydantic "
        "models.",
        durable="no",
        promise="at most once",
    ),
    "faststream_redis": Entry(
        title="FastStream, Redis streams",
        libraries=("faststream", "redis"),
        server="redis",
        effects=_SQLITE,
        settings="One worker process; consumer groups that take 100 at a time, and a second subscriber for each "
        "that claims what was "
        "pending for 5 s; 64 publishing tasks. Pydantic models.",
        durable=_IN_REDIS,
        promise="at least once",
        by_timeout=True,
    ),
    "faststream_rabbitmq": Entry(
        title="FastStream, RabbitMQ",
        libraries=("faststream", "aio-pika"),
        server="rabbitmq",
        effects=_SQLITE,
        settings="One worker process; durable classic queues, persistent messages, publisher confirms, prefetch "
        "100; 64 publishing tasks. "
        "Pydantic models.",
        durable="written before the confirmation",
        promise="at least once",
    ),
    "faststream_kafka": Entry(
        title="FastStream, Kafka",
        libraries=("faststream", "confluent-kafka"),
        server="kafka",
        effects=_SQLITE,
        settings="One worker process; consumer groups, an offset committed after each message (`NACK_ON_ERROR`), an "
        "idempotent producer, `acks=all`; 64 publishing tasks. Pydantic models.",
        durable="as the cluster is set",
        promise="at least once",
    ),
    "celery_redis": Entry(
        title="Celery, Redis",
        libraries=("celery", "redis"),
        server="redis",
        effects=_SQLITE,
        settings="Prefork with two processes, `task_acks_late`, `task_reject_on_worker_lost`, prefetch multiplier "
        "16, results ignored, "
        "no gossip, mingle or heartbeat; visibility time-out 5 s, looked at every second. Published one after the "
        "other.",
        durable=_IN_REDIS,
        promise="at least once (with late acknowledgement)",
        by_timeout=True,
    ),
    "dramatiq_redis": Entry(
        title="dramatiq, Redis",
        libraries=("dramatiq", "redis"),
        server="redis",
        effects=_SQLITE,
        settings="One worker process with four threads; heartbeat time-out 5 s, maintenance at 10 % of the "
        "commands. Published one after the "
        "other.",
        durable=_IN_REDIS,
        promise="at least once",
        by_timeout=True,
    ),
    "taskiq_redis": Entry(
        title="taskiq, Redis streams",
        libraries=("taskiq", "taskiq-redis", "redis"),
        server="redis",
        effects=_SQLITE,
        settings="`RedisStreamBroker`, one worker process, acknowledged when a task has ended, idle time-out 5 s; "
        "64 publishing tasks.",
        durable=_IN_REDIS,
        promise="at least once",
        by_timeout=True,
    ),
    "huey_sqlite": Entry(
        title="huey, SQLite",
        libraries=("huey",),
        server="",
        effects=f"another file, {_SQLITE}",
        settings="`SqliteHuey(fsync=True, results=False)`, one worker thread that looks every 10 to 20 ms. "
        "Published one after the other.",
        durable="yes",
        promise="at most once: a task is deleted before it runs",
    ),
    "dbos_sqlite": Entry(
        title="DBOS, SQLite",
        libraries=("dbos", "sqlalchemy"),
        server="",
        effects="the same file, in a transactional step that records itself; WAL",
        settings="One worker process, one queue, 8 workflows at once, looked at every 20 ms; enqueued one after the "
        "other by `DBOSClient`.",
        durable="yes",
        promise="effectively once, for what is written by a transactional step",
    ),
    "dbos_postgres": Entry(
        title="DBOS, PostgreSQL",
        libraries=("dbos", "sqlalchemy", "psycopg"),
        server="postgres",
        effects="the same database, in a transactional step that records itself, READ COMMITTED",
        settings="One worker process, one queue, 16 workflows at once, looked at every 20 ms; enqueued one after "
        "the other by `DBOSClient`.",
        durable="yes",
        promise="effectively once, for what is written by a transactional step",
    ),
    "procrastinate_postgres": Entry(
        title="procrastinate, PostgreSQL",
        libraries=("procrastinate", "psycopg"),
        server="postgres",
        effects="the same database, in a transaction of their own",
        settings="One worker process, 20 jobs at once, woken by LISTEN; published 256 at a time "
        "(`batch_defer_async`). Stalled jobs are "
        "retried after 5 s by the periodic task that its documentation shows.",
        durable="yes",
        promise="at least once, with that task",
        by_timeout=True,
    ),
    "eventsourcing_sqlite": Entry(
        title="eventsourcing, SQLite",
        libraries=("eventsourcing",),
        server="",
        effects="the same file and transaction, WAL",
        settings="Embedded: three applications on one file, `SingleThreadedRunner` in the publishing process; a "
        "recorder of its own runs the "
        "upsert with the events and the position. Placed 256 at a time.",
        durable="yes",
        promise="effectively once",
    ),
}
