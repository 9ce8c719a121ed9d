"""The exit codes of the command line: one table, for the program and for its reference page."""

from __future__ import annotations

import signal
from enum import IntEnum

from antiphon.errors import AntiphonError, DeclarationError, InvalidEvent, NotFound, StoreError


class Exit(IntEnum):
    """What ``antiphon`` ends with."""

    OK = 0
    FINDINGS = 1
    USAGE = 2
    STORE = 3
    APPLICATION = 4
    REFUSED = 5
    BUG = 70
    INTERRUPTED = 128 + signal.SIGINT
    BROKEN_PIPE = 128 + signal.SIGPIPE
    TERMINATED = 128 + signal.SIGTERM


MEANINGS: dict[Exit, str] = {
    Exit.OK: "done; `run` has drained",
    Exit.FINDINGS: "the answer is no: findings, a failed audit, nothing of that name, an event that its class refuses",
    Exit.USAGE: "wrong options or arguments",
    Exit.STORE: "a store cannot be used: no data directory, server or rights; disk full; damaged, locked, too new",
    Exit.APPLICATION: "the application cannot be imported, or is declared wrongly",
    Exit.REFUSED: "it cannot be done here: a port that is taken, an extra that is not installed",
    Exit.BUG: "an error that nobody foresaw; `--debug` shows its traceback",
    Exit.INTERRUPTED: "interrupted (Ctrl-C); of `run`, a second time, so that it did not drain",
    Exit.BROKEN_PIPE: "the reader of the output went away (such as `head`)",
    Exit.TERMINATED: "`run` was told to terminate a second time, and did not drain",
}

# The first class that fits decides.
_CODES: tuple[tuple[type[AntiphonError], Exit], ...] = (
    (StoreError, Exit.STORE),
    (InvalidEvent, Exit.FINDINGS),
    (NotFound, Exit.FINDINGS),
    (DeclarationError, Exit.USAGE),
)


class CommandError(AntiphonError):
    """A command cannot go on; *code* is what the program ends with."""

    def __init__(self, what: str, *, code: Exit, where: str = "", mend: str = "") -> None:
        super().__init__(what, where=where, mend=mend)
        self.code = code


def code_of(error: AntiphonError) -> Exit:
    """The exit code that *error* stands for."""
    if isinstance(error, CommandError):
        return error.code
    return next((code for kind, code in _CODES if isinstance(error, kind)), Exit.REFUSED)
