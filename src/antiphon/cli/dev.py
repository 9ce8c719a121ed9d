"""``antiphon dev``: ``antiphon run`` in a child process, again at every change of the code."""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from antiphon.cli import arguments, output
from antiphon.cli.exits import CommandError, Exit
from antiphon.cli.run import add_running

_WATCHED = (".py", ".sql")


def dev(parser: argparse.ArgumentParser) -> None:
    """Give *parser* the arguments of ``dev``."""
    arguments.add_app(parser)
    add_running(parser)
    parser.add_argument(
        "--watch",
        metavar="DIR",
        type=Path,
        action="append",
        help="a directory to watch for changes of .py and .sql files (again for more; default: the current one)",
    )
    parser.set_defaults(run=_dev)


def _dev(options: argparse.Namespace) -> int:
    try:
        from watchfiles import DefaultFilter, watch
    except ImportError:
        raise CommandError(
            "watching for changes needs the package watchfiles",
            code=Exit.REFUSED,
            mend='Install the extra: pip install "antiphon[reload]"; or use antiphon run',
        ) from None

    class Code(DefaultFilter):
        """Changes of code and tables, outside of caches and virtual environments."""

        def __call__(self, change: Any, path: str) -> bool:
            return path.endswith(_WATCHED) and super().__call__(change, path)

    folders = options.watch or [Path.cwd()]
    missing = [str(folder) for folder in folders if not folder.exists()]
    if missing:
        raise CommandError(f"there is no {', '.join(missing)}", code=Exit.USAGE, mend="Name directories that exist")
    output.say(f"watching {', '.join(map(str, folders))}")
    stopped = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    child = _start(options)
    try:
        for changes in watch(*folders, watch_filter=Code(), stop_event=stopped, raise_interrupt=False):
            output.say(f"changed: {', '.join(sorted({path for _, path in changes}))}")
            _stop(child)
            child = _start(options)
    finally:
        _stop(child)
    return Exit.OK


def _start(options: argparse.Namespace) -> subprocess.Popen[bytes]:
    """A process made anew, in which nothing of the old code is left.

    It has a process group of its own: a Ctrl-C in the terminal reaches it once, through us.
    """
    return subprocess.Popen([sys.executable, "-m", "antiphon", *_arguments_of_run(options)], process_group=0)


def _stop(child: subprocess.Popen[bytes]) -> None:
    """Let the child drain; one that was stopped by its own error is left alone."""
    if child.poll() is None:
        child.terminate()
        child.wait()


def _arguments_of_run(options: argparse.Namespace) -> list[str]:
    """The command line of ``run`` that says what *options* say."""
    given = ["run", options.app, "--data", str(options.data), "--host", options.host, "--log-level", options.log_level]
    if options.port is not None:
        given += ["--port", str(options.port)]
    if options.services is not None:
        given += ["--services", ",".join(options.services)]
    given += [f"--{name}={url}" for name in ("store", "bus") if (url := getattr(options, name)) is not None]
    if options.elsewhere:
        given += ["--elsewhere", ",".join(f"{name}={url}" for name, url in options.elsewhere.items())]
    given += [f"--{flag}" for flag, wanted in (("no-gateway", options.no_gateway), ("json", options.json)) if wanted]
    return [*given, "--grace", f"{options.grace.total_seconds()}s"]
