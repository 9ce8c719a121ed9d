"""``antiphon bench``: measure this machine, in ratios to figures of the same run."""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import platform
import sqlite3
import sys
import tempfile
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

PARTS = ("chain", "latency", "publishing", "idle", "backlog", "workflows", "sleeping")
Part = Callable[[Path], Coroutine[Any, Any, dict[str, Any]]]


def parser() -> argparse.ArgumentParser:
    """The options of ``antiphon bench``."""
    made = argparse.ArgumentParser(
        prog="antiphon bench",
        description="Measure what the framework costs on this machine. Trust the ratios: they come from one run.",
    )
    made.add_argument("--only", metavar="PARTS", help=f"comma-separated, of: {', '.join(PARTS)}")
    made.add_argument("--quick", action="store_true", help="small sizes: some seconds, coarse figures")
    made.add_argument("--backlog", type=int, metavar="N", help="depth of the backlog (default 200,000; quick 20,000)")
    made.add_argument("--sleepers", type=int, metavar="N", help="workflows that sleep (default 100,000; quick 2,000)")
    made.add_argument("--dir", type=Path, help="measure on this disk (default: the current directory's)")
    made.add_argument("--json", action="store_true", help="one JSON object as the last line of stdout")
    return made


def run(arguments: list[str]) -> int:
    """Measure and print; the exit code."""
    options = parser().parse_args(arguments)
    wanted = options.only.split(",") if options.only else list(PARTS)
    unknown = sorted(set(wanted) - set(PARTS))
    if unknown:
        parser().error(f"no part {', '.join(unknown)}; there are {', '.join(PARTS)}")
    logging.getLogger("antiphon").setLevel(logging.ERROR)
    figures: dict[str, Any] = {"machine": _machine()}
    measures = _measures(quick=options.quick, depth=options.backlog, sleepers=options.sleepers)
    for part in wanted:
        print(f"measuring {part} ...", file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory(dir=options.dir or Path.cwd(), prefix=".antiphon-bench-") as folder:
            figures[part] = asyncio.run(measures[part](Path(folder)))
        if not options.json:
            print(f"{part}: " + ", ".join(f"{name} {value}" for name, value in figures[part].items()), flush=True)
    if options.json:
        print(json.dumps(figures))
    return 0


def _measures(*, quick: bool, depth: int | None, sleepers: int | None) -> dict[str, Part]:
    from antiphon.bench import chain, latency, publishing, upkeep, workflows

    deep = depth or (20_000 if quick else 200_000)
    return {
        "chain": lambda at: chain.measure(at, events=4_000 if quick else 40_000, rounds=1 if quick else 5),
        "latency": lambda at: latency.measure(at, events=300 if quick else 5_000),
        "publishing": lambda at: publishing.measure(at, events=4_000 if quick else 40_000),
        "idle": lambda at: upkeep.idle(at, seconds=1.0 if quick else 10.0),
        "workflows": lambda at: workflows.measure(at, runs=2_000 if quick else 20_000, rounds=1 if quick else 5),
        "sleeping": lambda at: workflows.sleeping(at, runs=sleepers or (2_000 if quick else 100_000)),
        "backlog": lambda at: upkeep.backlog(at, depth=deep, events=2_000 if quick else 20_000),
    }


def _machine() -> dict[str, Any]:
    return {
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "system": platform.system(),
    }
