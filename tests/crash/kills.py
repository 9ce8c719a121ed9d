"""Kill the processes of real applications under load, hundreds of times, and audit what is left.

``python -m tests.crash.kills --kills 300`` prints one JSON object and ends with 1 if anything was violated.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import shutil
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from antiphon.demo.fleet import Fleet
from antiphon.demo.sink import running_sink
from antiphon.runtime.clock import SystemClock
from tests.crash.audits import findings, interrupted, under_way
from tests.crash.cases import CASES, Case
from tests.crash.clients import Clients
from tests.examples.kit import CHECKOUT

LANES = 6
GATEWAY, WORKERS = "gateway", ("one", "two")
#: Who is killed, and how often in proportion.
TARGETS = {("one",): 3, ("two",): 3, (GATEWAY,): 2, WORKERS: 1, (GATEWAY, *WORKERS): 3}
#: In this share of crashes the next one comes at once, in the middle of starting; else after some more requests.
AT_ONCE, AT_ONCE_S = 0.3, 0.9
MOST_REQUESTS = 40
SETTLED_S = 60.0


@dataclass
class Outcome:
    """What a run has come to. *kills* are processes, *crashes* the moments at which one or several died."""

    kills: int = 0
    crashes: int = 0
    accepted: int = 0
    answers_lost: int = 0
    attempts_interrupted: int = 0
    emails_repeated: int = 0
    findings: Counter[str] = field(default_factory=Counter)

    def __add__(self, other: Outcome) -> Outcome:
        return Outcome(*(getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__))

    def facts(self) -> dict[str, Any]:
        """One JSON object."""
        by_kind: Counter[str] = Counter()
        for finding, count in self.findings.items():
            by_kind[finding.partition(":")[0]] += int(count)
        figures = {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "findings"}
        verdicts = {kind: by_kind[kind] for kind in ("lost", "doubled", "disordered", "broken")}
        return {**figures, **verdicts, "findings": dict(self.findings)}


async def play(case: Case, data: Path, *, kills: int, seed: int) -> Outcome:
    """Run *case* on an empty *data*, kill so many processes, let it finish, stop it, and audit."""
    clock = SystemClock()
    everyone = {GATEWAY: [GATEWAY], **dict.fromkeys(WORKERS, case.services)}
    outcome = Outcome()
    async with running_sink() as sink:
        mail = {"SMTP_HOST": "127.0.0.1", "SMTP_PORT": str(sink.port)}
        fleet = Fleet(case.reference, data, everyone, mail, CHECKOUT)
        clients = Clients(lambda: fleet.url(GATEWAY), case.path, case.body, case.id_field)
        load = asyncio.create_task(clients.run(LANES, clock))
        try:
            await fleet.start(fleet.names)
            await _havoc(fleet, clients, outcome, kills, random.Random(seed), clock)
            clients.stop()
            await fleet.ready()
            await asyncio.wait_for(load, SETTLED_S)
            outcome.findings["lost: not finished in time"] += await _unfinished(data, clock)
            await fleet.stop()
        finally:
            load.cancel()
            await fleet.end()
        outcome.findings += findings(data) + case.audit(data, clients.accepted, sink.received)
    outcome.findings["doubled: requests answered with two ids"] += clients.contradicted
    outcome.findings["broken: requests refused"] += len(clients.refused)
    outcome.findings["broken: unexpected errors in the log"] += fleet.unexpected()
    outcome.findings = +outcome.findings
    outcome.accepted, outcome.answers_lost = len(clients.accepted), clients.retried
    outcome.attempts_interrupted = interrupted(data)
    outcome.emails_repeated = sink.received.total() - len(sink.received)
    return outcome


async def _havoc(
    fleet: Fleet, clients: Clients, outcome: Outcome, kills: int, chance: random.Random, clock: SystemClock
) -> None:
    while outcome.kills < kills:
        if outcome.crashes == 0 or chance.random() >= AT_ONCE:
            await asyncio.wait_for(clients.more(chance.randrange(1, MOST_REQUESTS)), SETTLED_S)
        await clock.sleep(chance.random() * AT_ONCE_S)
        (dying,) = chance.choices(list(TARGETS), list(TARGETS.values()))
        await fleet.kill(dying)
        outcome.kills += len(dying)
        outcome.crashes += 1
        await fleet.start(dying)


async def _unfinished(data: Path, clock: SystemClock) -> int:
    """What is still under way when all has had time to finish."""
    until = clock.boot_ms() + SETTLED_S * 1000
    while (left := under_way(data)) and clock.boot_ms() < until:
        await clock.sleep(0.1)
    return left


def main() -> int:
    """The command; its exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.crash.kills", description=__doc__)
    parser.add_argument("--kills", type=int, default=300, help="processes to kill, over all applications (300)")
    parser.add_argument("--app", choices=CASES, action="append", help="only this application")
    parser.add_argument("--seed", type=int, default=1, help="who is killed, and after how many requests (1)")
    options = parser.parse_args()
    names = options.app or list(CASES)
    total, facts = Outcome(), {}
    for name in names:
        data = Path(tempfile.mkdtemp(prefix=f"antiphon-kills-{name}-"))
        outcome = asyncio.run(play(CASES[name], data, kills=-(-options.kills // len(names)), seed=options.seed))
        facts[name] = outcome.facts()
        if outcome.findings:
            print(f"{name}: what was violated is kept in {data}", file=sys.stderr)
        else:
            shutil.rmtree(data)
        total += outcome
    print(json.dumps({**total.facts(), "seed": options.seed, "apps": facts}))
    return 1 if total.findings else 0


if __name__ == "__main__":
    sys.exit(main())
