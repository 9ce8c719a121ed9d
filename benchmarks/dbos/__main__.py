"""Workflows of five recorded steps: Antiphon, the same rows by hand, and DBOS on SQLite and on PostgreSQL, in one run.

DBOS gets an environment of its own (``.venv-dbos``, pinned in ``requirements.txt``), and on PostgreSQL a database of
its own, which is dropped afterwards. What cannot be had is named as absent.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from antiphon.bench import workflows

HERE = Path(__file__).parent
VENV = HERE.parents[1] / ".venv-dbos"
SERVER = "postgresql://postgres@127.0.0.1:5432/postgres"
TIME_LIMIT_S = 240


class Setting(NamedTuple):
    """DBOS on one database: at its best of several thread counts on two cores."""

    title: str
    kind: str
    isolation: str
    threads: int
    on_sqlite: bool


SETTINGS = (
    Setting("DBOS, SQLite, steps that write a row", "rows", "SERIALIZABLE", 4, True),
    Setting("DBOS, SQLite, steps that only record", "plain", "SERIALIZABLE", 4, True),
    Setting("DBOS, PostgreSQL, steps that write a row", "rows", "READ COMMITTED", 8, False),
    Setting("DBOS, PostgreSQL, steps that only record", "plain", "READ COMMITTED", 8, False),
)


def main() -> int:
    """Measure and print; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.dbos", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes: coarse figures")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="each in turn so often; medians (3)")
    parser.add_argument("--postgres", default=SERVER, metavar="URL", help=f"a PostgreSQL server ({SERVER})")
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line of stdout")
    options = parser.parse_args()
    found = measure(options.postgres, rounds=1 if options.quick else options.rounds, quick=options.quick)
    print(json.dumps(found) if options.json else table(found))
    return 0


def measure(server: str, *, rounds: int, quick: bool) -> dict[str, Any]:
    """All in turn, *rounds* times; medians."""
    rates: dict[str, list[dict[str, float]]] = {}
    absent: dict[str, str] = {}
    python = _environment(absent)
    for number in range(rounds):
        print(f"round {number + 1} of {rounds} ...", file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix=".antiphon-bench-") as folder:
            ours = asyncio.run(workflows.measure(Path(folder), runs=2_000 if quick else 20_000, rounds=1))
            for title, prefix in (("Antiphon, SQLite", ""), ("by hand, SQLite, the same rows", "limit_")):
                names = ("workflows_per_second", "cpu_us_per_workflow")
                rates.setdefault(title, []).append({name: ours[f"{prefix}{name}"] for name in names})
            for setting in SETTINGS:
                if python is None or setting.title in absent:
                    continue
                try:
                    found = _dbos(python, setting, Path(folder), server, runs=100 if quick else 500)
                except (subprocess.SubprocessError, json.JSONDecodeError) as error:
                    absent[setting.title] = _why(error)
                else:
                    rates.setdefault(setting.title, []).append(found)
    if python is None:
        absent |= dict.fromkeys((setting.title for setting in SETTINGS), absent.pop("environment"))
    return {
        "machine": {"cores": os.cpu_count(), "python": platform.python_version(), "system": platform.system()},
        "rounds": rounds,
        "steps": workflows.STEPS,
        "measured": {
            title: {name: round(statistics.median(each[name] for each in found), 1) for name in found[0]}
            for title, found in rates.items()
        },
        "absent": absent,
    }


def table(found: dict[str, Any]) -> str:
    """The figures as a Markdown table."""
    ours = found["measured"]["Antiphon, SQLite"]["workflows_per_second"]
    lines = ["| What | Workflows/s | CPU of one, µs | Antiphon is |", "|---|---|---|---|"]
    for title, figures in found["measured"].items():
        rate = figures["workflows_per_second"]
        lines.append(f"| {title} | {rate:,.0f} | {figures['cpu_us_per_workflow']:,.0f} | {ours / rate:.2f} times |")
    lines += [f"| {title} | absent: {why} | | |" for title, why in found["absent"].items()]
    return "\n".join(lines)


def _environment(absent: dict[str, str]) -> Path | None:
    """The interpreter that has DBOS, made ready if it is not; None, with the reason, if it cannot be."""
    python, wanted = VENV / "bin" / "python", (HERE / "requirements.txt").read_text(encoding="utf-8")
    stamp = VENV / "installed.txt"
    if stamp.exists() and stamp.read_text(encoding="utf-8") == wanted:
        return python
    print("installing DBOS into .venv-dbos (once)", file=sys.stderr, flush=True)
    install = [str(python), "-m", "pip", "install", "-q", "--no-input", "-r", str(HERE / "requirements.txt")]
    try:
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(VENV)], check=True, capture_output=True)
        subprocess.run(install, check=True, capture_output=True, text=True)
    except subprocess.CalledProcessError as error:
        absent["environment"] = _why(error)
        return None
    stamp.write_text(wanted, encoding="utf-8")
    return python


def _dbos(python: Path, setting: Setting, folder: Path, server: str, *, runs: int) -> dict[str, float]:
    with _database(python, setting, folder, server) as url:
        told = _job(python, url, setting.isolation, str(setting.threads), str(runs), setting.kind)
    figures: dict[str, float] = json.loads(told.splitlines()[-1])
    return figures


@contextmanager
def _database(python: Path, setting: Setting, folder: Path, server: str) -> Iterator[str]:
    if setting.on_sqlite:
        yield f"sqlite:///{folder / f'dbos-{setting.kind}.db'}"
        return
    name = f"antiphon_bench_dbos_{os.getpid()}"
    _job(python, "create", server, name)
    try:
        yield f"{server.rpartition('/')[0]}/{name}"
    finally:
        _job(python, "drop", server, name)


def _job(python: Path, *arguments: str) -> str:
    command = [str(python), str(HERE / "job.py"), *arguments]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=TIME_LIMIT_S, env=environment)
    return done.stdout


def _why(error: Exception) -> str:
    """The last line of what failed."""
    told = str(getattr(error, "stderr", "") or error).strip().splitlines() or [type(error).__name__]
    return told[-1][:160]


if __name__ == "__main__":
    sys.exit(main())
