"""``antiphon prune`` and ``antiphon backup``: upkeep of the files, while they are in use or not."""

from __future__ import annotations

import argparse
import asyncio
from datetime import UTC
from pathlib import Path
from typing import TYPE_CHECKING, Any

from antiphon.cli import arguments, output
from antiphon.cli.exits import Exit

if TYPE_CHECKING:
    from antiphon.cli.stores import DataDirectory


def prune(parser: argparse.ArgumentParser) -> None:
    """Give *parser* the arguments of ``prune``."""
    arguments.add_data(parser)
    parser.add_argument(
        "--older-than",
        metavar="SPAN",
        type=arguments.span,
        required=True,
        help="remove events older than this, such as 7d, unless somebody still needs them",
    )
    parser.add_argument(
        "--forget",
        metavar="HANDLER",
        action="append",
        default=[],
        help="first forget this handler, which the code no longer has, so that nothing is kept for it",
    )
    arguments.add_json(parser)
    parser.set_defaults(run=_prune)


def backup(parser: argparse.ArgumentParser) -> None:
    """Give *parser* the arguments of ``backup``."""
    parser.add_argument("dest", metavar="DEST", nargs="?", type=Path, help="a directory (default: DIR/backup-<time>)")
    arguments.add_data(parser)
    arguments.add_json(parser)
    parser.epilog = (
        "Each file is copied whole, as of one moment; services with a file each are copied one after the other, "
        "the bus last. What is sent twice after a restore is taken once."
    )
    parser.set_defaults(run=_backup)
