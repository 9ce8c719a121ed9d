"""What is logged while a world runs: errors are kept, nothing is printed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import msgspec

from antiphon.simulate.process import PROCESS, Killed


class LoggedError(msgspec.Struct, frozen=True):
    """A record of level ERROR or higher, at *time* (virtual seconds). *exception* is what it was logged with."""

    time: float
    process: str
    level: int
    logger: str
    text: str
    exception: BaseException | None = None


class Logs(logging.Handler):
    """Takes in all records while `installed`."""

    def __init__(self, now: Callable[[], float]) -> None:
        super().__init__(logging.ERROR)
        self.errors: list[LoggedError] = []
        self._now = now

    def emit(self, record: logging.LogRecord) -> None:
        """Keep *record*, unless it tells of somebody who was killed."""
        exception = record.exc_info[1] if record.exc_info else None
        process = PROCESS.get()
        if isinstance(exception, Killed) or (process is not None and not process.alive):
            return
        owner = process.owner if process is not None else ""
        text = record.getMessage()
        self.errors.append(LoggedError(self._now(), owner, record.levelno, record.name, text, exception))

    @contextmanager
    def installed(self) -> Iterator[None]:
        """For the length of the block."""
        root = logging.getLogger()
        before, level = root.handlers[:], root.level
        root.handlers[:] = [self]
        root.setLevel(logging.ERROR)
        try:
            yield
        finally:
            root.handlers[:] = before
            root.setLevel(level)
