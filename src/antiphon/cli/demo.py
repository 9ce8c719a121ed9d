"""``antiphon demo``: an example system, run by ``antiphon.demo``, behind the gateway."""

from __future__ import annotations

import argparse
from collections.abc import Sequence


def parser() -> argparse.ArgumentParser:
    """The demo's own arguments."""
    from antiphon.demo.main import parser as demo_parser

    return demo_parser()


def run(arguments: Sequence[str]) -> int:
    """Run the demo with its own command line; returns the exit code."""
    from antiphon.demo.main import run as run_demo
    from antiphon.gateway.application import serve

    return run_demo(arguments, serve)
