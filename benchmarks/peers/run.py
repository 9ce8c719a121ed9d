"""Runs the systems of the catalogue one after the other and collects what they print."""

from __future__ import annotations

import datetime
import json
import os
import platform
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import Any

from antiphon.bench.latency import fsync_seconds
from benchmarks.peers import environment, processes
from benchmarks.peers.catalogue import CATALOGUE, Entry
from benchmarks.peers.servers import SERVERS

Plan = dict[str, float]

#: How long each rate is measured, at how many events a second the latency, how often workers are killed.
FULL: Plan = {"seconds": 5.0, "rate": 100.0, "kills": 5}
QUICK: Plan = {"seconds": 1.0, "rate": 100.0, "kills": 2}
_WITHIN_S = {"steady": 100, "kill": 120, "loop": 60}
_GRACE_S = 10
_FSYNCS = 50


def run(names: Iterable[str], plan: Plan, python: str) -> dict[str, Any]:
    """Measure the named systems with *python*; the results, as they are saved."""
    here = environment.inventory(python)
    found: dict[str, Any] = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": _machine(),
        "plan": plan,
        **here,
        "systems": {},
        "absent": {},
    }
    for name in names:
        if why := _missing(CATALOGUE[name], here):
            found["absent"][name] = why
            _tell(f"{name}: absent: {why}")
        else:
            found["systems"][name] = _system(name, plan, python)
    return found


def _missing(entry: Entry, here: dict[str, Any]) -> str:
    """What a system lacks to run, or nothing."""
    libraries = [each for each in entry.libraries if each not in here["libraries"] and each != "antiphon"]
    if libraries:
        return f"not installed: {', '.join(libraries)}"
    if entry.server and entry.server not in here["servers"]:
        return f"{SERVERS[entry.server].title} does not answer"
    return ""


def _system(name: str, plan: Plan, python: str) -> dict[str, Any]:
    """All phases of a system, each in a process, a folder and under names of its own."""
    found: dict[str, Any] = {}
    asked = dict(plan)
    for phase in CATALOGUE[name].phases:
        _tell(f"{name}: {phase} ...")
        with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix=".antiphon-bench-") as folder:
            found.setdefault("fsync_ms", _fsync_ms(Path(folder)))
            try:
                found[phase] = run_phase(name, phase, asked, python, Path(folder))
            except (subprocess.SubprocessError, ValueError) as error:
                found["failed"] = f"{phase}: {error}"
                _tell(f"{name}: {found['failed']}")
                break
        _tell(f"{name}: {phase}: " + ", ".join(f"{key} {value}" for key, value in found[phase].items()))
        asked["events_per_second"] = found[phase].get("rate", 0.0)
    return found


def run_phase(name: str, phase: str, plan: Plan, python: str, folder: Path) -> dict[str, Any]:
    """What the process prints. Raises ValueError with its last words, or TimeoutExpired."""
    command = [python, "-m", "benchmarks.peers.measure", name, phase, json.dumps(plan)]
    names = environment.variables(PEERS_FOLDER=str(folder), PEERS_PREFIX=f"antiphon_peers_{os.getpid()}_{phase}")
    with subprocess.Popen(
        command, env=names, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        try:
            out, errors = process.communicate(timeout=_WITHIN_S[phase])
        except BaseException:
            _stop(process)
            raise
    if process.returncode:
        raise ValueError(errors.strip().splitlines()[-1] if errors.strip() else f"exit code {process.returncode}")
    figures: dict[str, Any] = json.loads(out.splitlines()[-1])
    return figures


def _stop(process: subprocess.Popen[str]) -> None:
    """Let it stop its workers and leave the servers clean; what then still lives of it is killed."""
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.communicate(timeout=_GRACE_S)
    processes.kill(processes.of_session(process.pid))


def _fsync_ms(folder: Path) -> float:
    """What a synced page costs on this disk just now."""
    with (folder / "probe").open("wb", buffering=0) as probe:
        return round(median(fsync_seconds(probe) for _ in range(_FSYNCS)) * 1000, 3)


def _machine() -> dict[str, Any]:
    return {
        "cores": os.cpu_count(),
        "system": platform.system(),
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "load": round(os.getloadavg()[0], 1),
    }


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
