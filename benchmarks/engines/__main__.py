"""The chain over each broker, beside a loop by hand and FastStream, in one run.

    python -m benchmarks.engines --engine nats --events 10000

Of each the best of --rounds, taken in turn, each in a process and under names of its own. FastStream runs in the peers'
environment (see benchmarks/README.md), its publisher and its worker in a process each; the other two are one process.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from antiphon.testing.conformance.engines import ENGINES
from benchmarks.engines.by_hand import by_hand
from benchmarks.engines.lines import LINES
from benchmarks.engines.ours import ours
from benchmarks.peers import environment
from benchmarks.peers.run import run_phase
from benchmarks.peers.servers import SERVERS

_FASTSTREAM = {
    "nats": "faststream_jetstream",
    "redis": "faststream_redis",
    "rabbitmq": "faststream_rabbitmq",
    "kafka": "faststream_kafka",
}
_CONTESTANTS = ("hand", "ours", "faststream")
_WITHIN_S = 300


def one(contestant: str, engine: str, url: str, events: int) -> dict[str, float]:
    """What one contestant achieves, here and now."""
    name = f"bench_{os.getpid()}"
    with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix=".antiphon-bench-") as folder:
        if contestant == "hand":
            rate, cpu_us = asyncio.run(by_hand(engine, url, name, Path(folder), events))
        else:
            rate, cpu_us = asyncio.run(ours(url, name, Path(folder), events))
        return {"rate": rate, "cpu_us": cpu_us}


def apart(contestant: str, engine: str, url: str, events: int, python: str | None) -> dict[str, float]:
    """The same in a process of its own."""
    if contestant == "faststream":
        assert python is not None
        os.environ[SERVERS[engine].variable] = url
        with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix=".antiphon-bench-") as folder:
            found = run_phase(_FASTSTREAM[engine], "steady", {"seconds": 2.0, "rate": 50.0}, python, Path(folder))
        return {"rate": found["rate"], "cpu_us": found["cpu_us"]}
    command = [sys.executable, "-m", "benchmarks.engines", "--one", contestant, "--engine", engine, "--url", url]
    done = subprocess.run(
        [*command, "--events", str(events)], stdout=subprocess.PIPE, text=True, check=True, timeout=_WITHIN_S
    )
    found = json.loads(done.stdout)
    return {name: float(value) for name, value in found.items()}


def measure(engine: str, url: str, events: int, rounds: int, python: str | None) -> dict[str, Any]:
    """All contestants in turn; the best of each, and the ratios."""
    best: dict[str, dict[str, float]] = {}
    contestants = [each for each in _CONTESTANTS if each != "faststream" or python]
    for _ in range(rounds):
        for contestant in contestants:
            found = apart(contestant, engine, url, events, python)
            if contestant not in best or found["rate"] > best[contestant]["rate"]:
                best[contestant] = found
    rates = {name: found["rate"] for name, found in best.items()}
    return {
        "engine": engine,
        "events": events,
        "rounds": rounds,
        "load": round(os.getloadavg()[0], 1),
        "events_per_second": {name: round(rate) for name, rate in rates.items()},
        "cpu_us_per_event": {name: round(found["cpu_us"], 1) for name, found in best.items()},
        "of_by_hand": round(rates["ours"] / rates["hand"], 2),
        "times_faststream": round(rates["ours"] / rates["faststream"], 1) if "faststream" in rates else None,
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="The chain over each broker, beside a loop by hand and FastStream.")
    parser.add_argument("--engine", choices=list(LINES), action="append", help="of this broker (default: all)")
    parser.add_argument("--events", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--no-peers", action="store_true", help="without FastStream, which has to be installed")
    parser.add_argument("--json", action="store_true", help="print one JSON object a broker")
    parser.add_argument("--url", help=argparse.SUPPRESS)
    parser.add_argument("--one", choices=_CONTESTANTS[:2], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(one(options.one, options.engine[0], options.url, options.events)))
        return
    asyncio.run(_all(options))


async def _all(options: argparse.Namespace) -> None:
    """Each broker where it listens, or on a server started for it."""
    python = None if options.no_peers else environment.make_ready()
    for engine in [each for each in ENGINES if each.name in (options.engine or LINES)]:
        async with engine.reached() as url:
            if url is None:
                print(f"{engine.name:9} is not here", file=sys.stderr)
                continue
            found = await asyncio.to_thread(measure, engine.name, url, options.events, options.rounds, python)
        if options.json:
            print(json.dumps(found), flush=True)
            continue
        rates = "   ".join(f"{name} {rate:,}/s" for name, rate in found["events_per_second"].items())
        times = f", {found['times_faststream']} times FastStream" if found["times_faststream"] else ""
        cpu = " ".join(f"{name} {us:.0f}" for name, us in found["cpu_us_per_event"].items())
        ratios = f"{found['of_by_hand']} of by hand{times}"
        print(f"{engine.name:9} {rates}   {ratios}   CPU µs: {cpu}   (load {found['load']})", flush=True)


if __name__ == "__main__":
    main()
