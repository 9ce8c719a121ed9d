"""After the stop: what the databases say became of everything that was accepted."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from antiphon.demo.subject import Subject

_BLOCK = re.compile(r"^-- name: ", re.MULTILINE)
#: Name of a view over all the databases -> the table of the store in each that it unites, and of which rows.
UNITED = {
    "published": "antiphon_log WHERE origin = 0",
    "attempts": "antiphon_attempts",
    "deliveries": "antiphon_deliveries",
}


@dataclass(frozen=True)
class Audit:
    """The answers: *figures* by name, and *findings*, what is wrong, each with how many there are."""

    figures: Mapping[str, int]
    findings: Mapping[str, int]

    @property
    def ok(self) -> bool:
        """Whether nothing was lost, and nothing came twice."""
        return not self.findings

    def total(self, kind: str) -> int:
        """How many findings are of the *kind* ``lost`` or ``duplicated``."""
        return sum(count for finding, count in self.findings.items() if finding.startswith(f"{kind}: "))


def audit(subject: Subject, data: Path, accepted: Iterable[str], received: Mapping[str, int]) -> Audit:
    """Look into the databases in *data*, which nobody has open.

    *accepted* are the ids that were answered with 202, *received* says how often each Message-ID came.
    """
    services = list(subject.app.services)
    with closing(sqlite3.connect(":memory:", uri=True)) as connection:
        for service in services:
            connection.execute(f"ATTACH ? AS {service}", ((data / f"{service}.db").as_uri() + "?mode=rw",))
        connection.execute(f"CREATE TABLE accepted ({subject.id_field} TEXT PRIMARY KEY) WITHOUT ROWID")
        connection.execute("CREATE TABLE received (message_id TEXT PRIMARY KEY, times INTEGER) WITHOUT ROWID")
        connection.executemany("INSERT INTO accepted VALUES (?)", ((each,) for each in accepted))
        connection.executemany("INSERT INTO received VALUES (?, ?)", received.items())
        for name, rows in UNITED.items():
            every = " UNION ALL ".join(f"SELECT * FROM {service}.{rows}" for service in services)  # noqa: S608
            connection.execute(f"CREATE TEMP VIEW {name} AS {every}")
        connection.commit()
        connection.execute("PRAGMA query_only = ON")
        asked = questions(subject)
        answers = {name: int(connection.execute(sql).fetchone()[0]) for name, sql in asked.items()}
    findings = {name: count for name, count in answers.items() if ": " in name and count}
    return Audit({name: count for name, count in answers.items() if ": " not in name}, findings)


def questions(subject: Subject) -> dict[str, str]:
    """The SQL of each question, by name: those about this example, and those about any."""
    common = files("antiphon.demo").joinpath("audit.sql").read_text(encoding="utf-8")
    blocks = [block for text in (subject.audit_sql, common) for block in _BLOCK.split(text)[1:]]
    return {name: sql for name, _, sql in (block.partition("\n") for block in blocks)}
