"""Cut the power at every write and every sync of the real store, and audit each disk that may be left.

An application with four database files works on a disk that notes every operation. From that, images of the disk after
each operation are made, torn ones among them, opened by the SQLite of this Python, and audited.
``python -m tests.crash.power --images 10000`` prints one JSON object and ends with 1 if anything was violated.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sqlite3
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from antiphon.runtime.clock import SystemClock
from antiphon.store.sqlite import backups
from tests.crash.disk import Operation, Platter
from tests.crash.life import ACKNOWLEDGED, BACKUP, DATA, Synchronous, record
from tests.crash.shop import EFFECTS, app_of, effects_of

#: On one of so many images the application is started again, to go on with its work.
RESUMED_EVERY = 40
_PATIENCE_S = 20.0
#: Where an order may be on its way: an event of a log or of the bus, or one that waits for its time.
_ORDERS = [
    f"SELECT json_extract(CAST(data AS TEXT), '$.n') FROM {table} WHERE type = 'Ordered'"
    for table in ("antiphon_log", "antiphon_timers")
]
_UNSOUND = "SELECT count(*) > 0 FROM pragma_integrity_check WHERE integrity_check <> 'ok'"
_ROWS = "SELECT customer, n FROM {} ORDER BY id"


@dataclass
class Outcome:
    """What was seen. *missing* is how many acknowledged orders an image lacked at most."""

    operations: int = 0
    images: int = 0
    resumed: int = 0
    missing: int = 0
    findings: Counter[str] = field(default_factory=Counter)

    def facts(self) -> dict[str, Any]:
        """For the report."""
        return {
            "operations": self.operations,
            "images": self.images,
            "resumed": self.resumed,
            "acknowledged_missing_at_most": self.missing,
            "findings": dict(self.findings),
        }


# ---------------------------------------------------------------------- the images


@dataclass
class Told:
    """What others had been told by the time that the power went."""

    acknowledged: set[int] = field(default_factory=set)
    seen: dict[str, int] = field(default_factory=dict)
    backups: list[str] = field(default_factory=list)

    def hear(self, what: str, value: Any) -> None:
        """One more note of the recording."""
        if what == ACKNOWLEDGED:
            self.acknowledged.add(value)
        elif what == BACKUP:
            self.backups += value
        else:
            self.seen[what] = max(value, self.seen.get(what, 0))


def cut(operations: Sequence[Operation], folder: Path, images: int, seed: int, *, durable: bool = True) -> Outcome:
    """Audit so many images, evenly over all operations. If not *durable*, what was acknowledged may be missing."""
    chance = random.Random(seed)
    outcome = Outcome(operations=len(operations))
    rest = set(chance.sample(range(len(operations)), images % len(operations)))
    disk, told = Platter(), Told()
    for index, operation in enumerate(operations):
        if operation.kind == "note":
            told.hear(operation.what, operation.value)
        else:
            disk.apply(operation)
        for _ in range(images // len(operations) + (index in rest)):
            with _laid_out(disk.image(chance), folder) as data:
                found = _audit(data, told, outcome, durable=durable)
                outcome.findings += found
                if durable and not found and outcome.images % RESUMED_EVERY == 0:
                    outcome.resumed += 1
                    outcome.findings += asyncio.run(_resume(data, told))
            outcome.images += 1
    return outcome


@contextmanager
def _laid_out(image: Mapping[str, bytes], folder: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=folder) as root:
        for path, content in image.items():
            file = Path(root, path)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        yield Path(root, DATA)


def _audit(data: Path, told: Told, outcome: Outcome, *, durable: bool) -> Counter[str]:
    """Look into the files as the power left them. SQLite recovers them at this first opening."""
    found: Counter[str] = Counter()
    orders: set[int] = set()
    effects: dict[str, list[tuple[str, int]]] = {}
    for path in sorted(data.glob("*.db")):
        try:
            with closing(sqlite3.connect(path)) as connection:
                found["broken: not sound"] += connection.execute(_UNSOUND).fetchone()[0]
                if connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'antiphon_handlers'").fetchone():
                    orders |= {n for sql in _ORDERS for (n,) in connection.execute(sql)}
                    if (table := EFFECTS.get(path.stem)) is not None:
                        effects[table] = connection.execute(_ROWS.format(table)).fetchall()
                        handled = connection.execute("SELECT total(handled) FROM antiphon_handlers").fetchone()[0]
                        found["broken: effects apart from what settles them"] += handled != len(effects[table])
        except (sqlite3.DatabaseError, UnicodeDecodeError):  # the error's own text may quote what is corrupt
            found["broken: cannot be read"] += 1
    for table, rows in effects.items():
        found += effects_of(table, rows)
        orders |= {n for _, n in rows}
    missing = len(told.acknowledged - orders)
    outcome.missing = max(outcome.missing, missing)
    if durable:
        found["lost: acknowledged"] += missing
        for table, count in told.seen.items():
            found[f"lost: {table} that were seen"] += max(0, count - len(effects.get(table, ())))
        for backup in told.backups:
            copy = data.parent / backup
            found["lost: a backup that was reported"] += not copy.is_file() or bool(backups.check(copy).problems)
    return +found


async def _resume(data: Path, told: Told) -> Counter[str]:
    """After the reboot the application goes on: what was acknowledged ends with each effect once."""
    effects: list[list[tuple[str, int]]] = []
    async with app_of(own_stores=True).run_in(data, clock=_AfterReboot()) as runtime:
        until = runtime.clock.boot_ms() + _PATIENCE_S * 1000
        while runtime.clock.boot_ms() < until:
            effects = [
                [tuple(row) for row in await runtime.store_of(service).fetch_all(_ROWS.format(table))]
                for service, table in EFFECTS.items()
            ]
            billed, counted = [{n for _, n in rows} for rows in effects]
            if told.acknowledged <= billed == counted:
                break
            await runtime.clock.sleep(0.01)
    found: Counter[str] = Counter()
    for table, rows in zip(EFFECTS.values(), effects, strict=True):
        found += effects_of(table, rows)
        found[f"lost: {table}, after the reboot"] += len(told.acknowledged - {n for _, n in rows})
    return +found


class _AfterReboot(SystemClock):
    """The clock of the machine that was started again."""

    def boot_id(self) -> str:
        return "after the power came back"


# ---------------------------------------------------------------------- the command


@contextmanager
def room() -> Iterator[Path]:
    """A folder for disks, in memory if there is such a place: they lose power in a way of their own."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None, prefix="antiphon-power-") as folder:
        yield Path(folder)


def run(folder: Path, *, images: int, seed: int) -> dict[Synchronous, Outcome]:
    """Half of the images with FULL, of which nothing may be missing, half with NORMAL, which may not be corrupt."""
    outcomes: dict[Synchronous, Outcome] = {}
    shares: dict[Synchronous, int] = {"FULL": images - images // 2, "NORMAL": images // 2}
    for synchronous, share in shares.items():
        with tempfile.TemporaryDirectory(dir=folder) as place:
            operations = record(Path(place), synchronous)
            outcomes[synchronous] = cut(operations, Path(place), share, seed, durable=synchronous == "FULL")
    return outcomes


def main() -> int:
    """The command; its exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.crash.power", description=__doc__)
    parser.add_argument("--images", type=int, default=10_000, help="disks to audit (10000)")
    parser.add_argument("--seed", type=int, default=1, help="which sectors arrive (1)")
    options = parser.parse_args()
    with room() as folder:
        outcomes = run(folder, images=options.images, seed=options.seed)
    facts = {synchronous: outcome.facts() for synchronous, outcome in outcomes.items()}
    images = sum(outcome.images for outcome in outcomes.values())
    print(json.dumps({"images": images, "seed": options.seed, **facts}))
    return int(any(outcome.findings for outcome in outcomes.values()))


if __name__ == "__main__":
    sys.exit(main())
