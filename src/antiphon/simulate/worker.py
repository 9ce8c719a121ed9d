"""An interpreter that runs worlds for a search: a job a line on stdin, a run a line on stdout, both JSON."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from importlib import import_module
from typing import BinaryIO

import msgspec

from antiphon.app import App
from antiphon.simulate.disk import described
from antiphon.simulate.faults import FaultMix, Schedule
from antiphon.simulate.world import Run, World


class Job(msgspec.Struct, frozen=True):
    """One world to be run. *schedule* says the faults (empty: none); None: the seed draws them, of *kinds* alone.

    With *upto* the answer has the records of the points up to there, their details in words.
    """

    seed: int
    events: int
    kinds: tuple[str, ...] = ()
    schedule: str | None = None
    upto: int = 0


def run_job(app: App, job: Job) -> Run:
    """Run the world of *job*."""
    faults = FaultMix.swarm(job.seed, job.kinds) if job.schedule is None else Schedule.parse(job.schedule)
    run = World(app, job.seed, events=job.events, faults=faults, record=bool(job.upto)).run()
    if job.upto:
        run.records = [
            record._replace(detail=described(record.name, record.detail).encode()) for record in run.records[: job.upto]
        ]
    return run


def load(reference: str) -> App:
    """The app that ``module:attribute`` names."""
    module, _, attribute = reference.partition(":")
    found = getattr(import_module(module), attribute or "app")
    assert isinstance(found, App)
    return found


def serve(work: Callable[[Job], Run], jobs: Iterable[bytes], runs: BinaryIO) -> None:
    """Do each job of *jobs*, in order, and write what came of it."""
    decoder, encoder = msgspec.json.Decoder(Job), msgspec.json.Encoder()
    for line in jobs:
        runs.write(encoder.encode(work(decoder.decode(line))) + b"\n")
        runs.flush()


def main() -> None:
    """Serve on stdin and stdout. What the application prints goes to stderr."""
    runs = sys.stdout.buffer
    sys.stdout = sys.stderr
    app = load(sys.argv[1])
    serve(lambda job: run_job(app, job), sys.stdin.buffer, runs)


if __name__ == "__main__":
    main()
