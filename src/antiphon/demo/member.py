"""What a process of the demo runs: ``antiphon run antiphon.demo.member:app``, told by its environment what that is.

It ends with the process that started it, at the other end of its standard input.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from threading import Thread

from antiphon.app import App
from antiphon.demo.chance import Chance
from antiphon.demo.faults import made_faulty
from antiphon.demo.subject import app_of

_EXAMPLE, _FAIL, _SEED = (f"ANTIPHON_DEMO_{name}" for name in ("EXAMPLE", "FAIL", "SEED"))


def environment_of(example: str, fail: float, seed: int) -> dict[str, str]:
    """What tells a process to run *example*, of whose attempts the share *fail* fails."""
    return {_EXAMPLE: example, _FAIL: str(fail), _SEED: str(seed)}


def app_here(environment: Mapping[str, str]) -> App:
    """The app that the environment names. Raises KeyError in one that was not made for it."""
    return made_faulty(app_of(environment[_EXAMPLE]), float(environment[_FAIL]), Chance(int(environment[_SEED])))


def _end_with_parent() -> None:
    os.read(0, 1)  # not sys.stdin, whose lock this thread would hold when the process ends by itself
    os.kill(os.getpid(), signal.SIGTERM)


if _EXAMPLE in os.environ:
    app = app_here(os.environ)
    Thread(target=_end_with_parent, daemon=True).start()
