"""``antiphon demo``: an example runs, is fed and shown; then it drains, and its databases are audited."""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from antiphon.demo.audit import audit
from antiphon.demo.play import Play, Serve
from antiphon.demo.report import facts_of, summary_of
from antiphon.demo.subject import EXAMPLES, subject_of


def run(arguments: Sequence[str], serve: Serve) -> int:
    """Run the demo with its command line *arguments*; 0, or 1 if the audit fails. Raises AntiphonError."""
    options = parser().parse_args(arguments)
    # What fails is shown as figures, and what is injected would fill the terminal.
    logging.getLogger("antiphon").setLevel(logging.CRITICAL)
    logging.getLogger("antiphon.demo").setLevel(logging.ERROR)
    subject = subject_of(options.example)
    with _data_folder(options.data) as folder:
        played = asyncio.run(Play(subject, options, folder.path, serve).play())
        found = audit(subject, folder.path, played.fed.accepted.values(), played.received)
        ok = found.ok and not played.fed.doubled
        folder.keep = folder.keep or not ok
    facts = facts_of(subject, found, played, seed=options.seed)
    summary = summary_of(subject, facts)
    if not ok:
        summary += f"\nThe databases are kept in {folder.path}"
    print(summary, file=sys.stderr if options.json else sys.stdout, flush=True)
    if options.json:
        print(json.dumps(facts), flush=True)
    return 0 if ok else 1


def parser() -> argparse.ArgumentParser:
    """The arguments of the command."""
    made = argparse.ArgumentParser(
        prog="antiphon demo",
        description="Run an example system, fed with requests, until Ctrl-C; then drain and audit its databases.",
        epilog=". ".join(f"{name}: {what}" for name, what in EXAMPLES.items()) + ".",
        allow_abbrev=False,
    )
    made.add_argument(
        "example",
        metavar="EXAMPLE",
        nargs="?",
        choices=list(EXAMPLES),
        default="flight_booking",
        help=f"which: {', '.join(EXAMPLES)} (default: flight_booking)",
    )
    made.add_argument("--for", dest="seconds", metavar="SECONDS", type=_above_zero, help="end by itself after so long")
    made.add_argument("--rate", metavar="N", type=_above_zero, default=50.0, help="requests a second (default: 50)")
    made.add_argument(
        "--fail", metavar="RATE", type=_fault_rate, default=0.0, help="share of attempts that fail, up to 0.5 (0)"
    )
    made.add_argument(
        "--kill",
        metavar="SECONDS",
        type=_from_zero,
        help="run in several processes and kill -9 some every so often (0: never; default: as the example says)",
    )
    made.add_argument("--seed", metavar="N", type=int, default=1, help="which requests and faults (default: 1)")
    made.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    made.add_argument("--port", metavar="P", type=int, default=8000, help="the gateway's port (8000; 0: any free one)")
    made.add_argument("--data", metavar="DIR", type=Path, help="keep the databases there (default: a temporary one)")
    return made


@dataclass
class _Folder:
    path: Path
    keep: bool


@contextmanager
def _data_folder(wanted: Path | None) -> Iterator[_Folder]:
    """The folder for the databases: the one that is *wanted*, or one that is removed unless it is to be kept."""
    if wanted is not None:
        yield _Folder(wanted.resolve(), keep=True)
        return
    folder = _Folder(Path(tempfile.mkdtemp(prefix="antiphon-demo-")), keep=False)
    try:
        yield folder
    finally:
        if not folder.keep:
            shutil.rmtree(folder.path, ignore_errors=True)


def _above_zero(text: str) -> float:
    value = float(text)
    if not 0 < value < 1e6:
        raise argparse.ArgumentTypeError(f"{text} is not above zero")
    return value


def _from_zero(text: str) -> float:
    return 0.0 if float(text) == 0 else _above_zero(text)


def _fault_rate(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 0.5:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 0.5")
    return value
