"""Where the chain's time goes: ``python benchmarks/profile_chain.py [EVENTS]``.

Profiles the chain of ``antiphon bench`` and adds up each function's own time by what it is there for, in
microseconds per chain event (one published, one handled with an upsert and a follow-up, one counted). A
profiler makes Python dearer than SQLite, so trust the order, and the shares within a group.
"""

from __future__ import annotations

import asyncio
import cProfile
import pstats
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

from antiphon.bench import chain

# The first that matches the function's file or name.
GROUPS = (
    ("SQLite: COMMIT and statements", ("method 'execute'", "method 'executemany'", "method 'fetchall'", "fetchone")),
    ("encode, validate, decode", ("model/payload", "model/events", "model/shape", "msgspec", "Encoder", "Decoder")),
    ("ids and time", ("model/ids", "runtime/clock", "time_ns", "getrandbits", "clock_gettime")),
    ("the user's handlers", ("bench/workload",)),
    ("publishing", ("runtime/publishing", "runtime/transaction", "runtime/runtime")),
    ("running attempts", ("runtime/batch", "runtime/invoke", "runtime/attempt", "runtime/worker")),
    ("the store around SQLite", ("store/sqlite",)),
    ("event loop", ("asyncio", "selectors", "epoll", "contextlib")),
)


def group_of(file: str, name: str) -> str:
    """What a function is there for."""
    text = f"{file} {name}"
    return next((group for group, marks in GROUPS if any(mark in text for mark in marks)), "everything else")


async def run(events: int) -> None:
    """The chain, once."""
    with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix=".antiphon-bench-") as folder:
        async with chain.running(Path(folder)) as runtime:
            await chain.through(runtime, events)


def main() -> None:
    """Profile and print the table."""
    events = int(sys.argv[1]) if len(sys.argv) > 1 else 20_000
    profile = cProfile.Profile()
    profile.runcall(asyncio.run, run(events))
    times: defaultdict[str, float] = defaultdict(float)
    for (file, _, name), (_, _, own, _, _) in pstats.Stats(profile).stats.items():  # type: ignore[attr-defined]
        times[group_of(file, name)] += own
    for group, seconds in sorted(times.items(), key=lambda item: -item[1]):
        print(f"{seconds / events * 1e6:6.1f} us  {group}")
    print(f"{sum(times.values()) / events * 1e6:6.1f} us  in all, with the profiler's own share")


if __name__ == "__main__":
    main()
