"""Antiphon beside its peers: ``python -m benchmarks.peers [--quick] [--only A,B] [--save] [--page]``."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys

from benchmarks.peers import environment, page, run
from benchmarks.peers.catalogue import CATALOGUE

RESULTS = environment.HERE / "results.json"
PAGE = environment.ROOT / "docs" / "reference" / "peers.md"
CHART = PAGE.with_suffix(".svg")


def parser() -> argparse.ArgumentParser:
    """The options."""
    made = argparse.ArgumentParser(
        prog="python -m benchmarks.peers",
        description="The same job with Antiphon and with what would be picked instead, on this machine, in one run.",
    )
    made.add_argument("--only", metavar="A,B", help=f"of: {', '.join(CATALOGUE)}")
    made.add_argument("--quick", action="store_true", help="short: some two minutes, coarse figures")
    made.add_argument("--save", action="store_true", help="keep the results, and write the page of the docs from them")
    made.add_argument("--page", action="store_true", help="measure nothing; write that page from the kept results")
    return made


def main(arguments: list[str] | None = None) -> int:
    """Measure and print; the exit code."""
    options = parser().parse_args(arguments)
    names = options.only.split(",") if options.only else list(CATALOGUE)
    if unknown := sorted(set(names) - set(CATALOGUE)):
        parser().error(f"no system {', '.join(unknown)}; there are {', '.join(CATALOGUE)}")
    if options.save and options.only:
        parser().error("--save keeps a whole run; leave --only away")
    if options.page:
        _write_page()
        return 0
    results = run.run(names, run.QUICK if options.quick else run.FULL, _python(names))
    print(page.text(results))
    if options.save:
        RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        _write_page()
    return 1 if any("failed" in each for each in results["systems"].values()) else 0


def _python(names: list[str]) -> str:
    """The Python that has the peers; this one, if none is wanted or they cannot be installed."""
    if all(CATALOGUE[name].libraries == ("antiphon",) for name in names):
        return sys.executable
    try:
        return environment.make_ready()
    except subprocess.CalledProcessError as error:
        print(f"the peers cannot be installed: {error}", file=sys.stderr)
        return sys.executable


def _write_page() -> None:
    results = json.loads(RESULTS.read_text(encoding="utf-8"))
    PAGE.write_text(page.markdown(results), encoding="utf-8")
    CHART.write_text(page.chart(results), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
