"""Which failures are the same failure: the groups of dead letters."""

from __future__ import annotations

import re
import sysconfig
import traceback
from collections.abc import Iterator
from hashlib import sha256
from itertools import chain
from os import sep
from pathlib import Path
from types import FrameType

from antiphon.model.delivery import Failure
from antiphon.policy.words import bounded, message_of, sole_error, type_name

#: Longest traceback that is kept, in bytes of UTF-8, and the innermost frames that it may show.
TRACEBACK_LIMIT = 16 * 1024
FRAME_LIMIT = 60
LABEL_LIMIT = 160
DIGEST_LENGTH = 10

_ANTIPHON = str(Path(__file__).parents[1]) + sep
_STANDARD_LIBRARY = tuple({sysconfig.get_path(name) + sep for name in ("stdlib", "platstdlib")})
_INSTALLED = (f"{sep}site-packages{sep}", f"{sep}dist-packages{sep}")

# What varies between two occurrences of one failure, most specific first. Every pattern is linear,
# and the text that it sees is bounded: a message is foreign input.
_VARYING = (
    (re.compile(r"(?<!\w)[bB]?'(?:[^'\n]|'(?=\w))*'(?!\w)"), "'*'"),
    (re.compile(r'(?<!\w)[bB]?"[^"\n]*"'), "'*'"),
    (re.compile(r"\b[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}\b"), "#"),
    (re.compile(r"(?<![\w.])[-+]?\d+(?:[.,:]\d+)*(?:[eE][-+]?\d+)?(?!\w)"), "#"),
    (re.compile(r"\b0[xX][0-9a-fA-F]+\b"), "#"),
    (re.compile(r"\b(?=[a-fA-F]*\d)(?=\d*[a-fA-F])[0-9a-fA-F]{8,}\b"), "#"),
    (re.compile(r"\b(?=[A-Za-z]*\d)(?=\d*[A-Za-z])[A-Za-z0-9]{16,}\b"), "#"),
    (re.compile(r"\d+(?:[.,:]\d+)*"), "#"),
    (re.compile(r"\s+"), " "),
    # A list of two and a list of three are the same message.
    (re.compile(r"(#|'\*')(?:, ?\1)+"), r"\1"),
)


def normalised(message: str) -> str:
    """*message* without what varies: numbers, hexadecimals, UUIDs, long identifiers, quoted strings."""
    text = message[:1000]
    for pattern, stand_in in _VARYING:
        text = pattern.sub(stand_in, text)
    return text.strip()


def fingerprint(error: BaseException, *, own_root: str | None = None) -> str:
    """The group of *error*: ten hexadecimal digits, a space, and a label to read.

    Equal for equal exception type, normalised message and innermost function of the user's own code:
    under *own_root* (a directory), or without one outside the standard library, installed packages and
    Antiphon. Line numbers and directories do not count, so a group outlives an edit and a move.
    """
    error = sole_error(error)
    place, message = _place(error, own_root), normalised(message_of(error))
    identity = "\n".join((type_name(error), place, message))
    digest = sha256(identity.encode()).hexdigest()[:DIGEST_LENGTH]
    label = type(error).__name__ + (f" in {place}" if place else "") + (f": {message}" if message else "")
    return f"{digest} {bounded(label, LABEL_LIMIT)}"


def failure_of(error: BaseException, *, own_root: str | None = None) -> Failure:
    """What the attempt died of, bounded in size. Local variables are never read: they hold secrets."""
    report = traceback.TracebackException.from_exception(error, limit=-FRAME_LIMIT, capture_locals=False)
    return Failure(
        error_type=type_name(error),
        message=message_of(error),
        traceback=bounded("".join(report.format()), TRACEBACK_LIMIT),
        fingerprint=fingerprint(error, own_root=own_root),
    )


def _place(error: BaseException, own_root: str | None) -> str:
    """``module.function`` of the innermost own frame, else of the innermost one, else ``""``."""
    frames = list(_frames(error))
    root = own_root.rstrip(sep) + sep if own_root else ""
    own = (frame for frame in frames if root and _is_under(frame, root))
    somebodys = (frame for frame in frames if _is_applications(frame))
    chosen = next(chain(own, somebodys, frames), None)
    return _name(chosen) if chosen else ""


def _frames(error: BaseException) -> Iterator[FrameType]:
    """The frames that the error passed, innermost first."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return reversed(frames)


def _is_under(frame: FrameType, root: str) -> bool:
    """Whether the code lies under *root*, and not in an environment or in Antiphon inside it."""
    path = frame.f_code.co_filename
    if not path.startswith(root) or any(part in path.removeprefix(root[:-1]) for part in _INSTALLED):
        return False
    return root.startswith(_ANTIPHON) or not path.startswith(_ANTIPHON)


def _is_applications(frame: FrameType) -> bool:
    """Whether the code is neither Antiphon's, nor installed, nor the standard library's."""
    path = frame.f_code.co_filename
    library = path.startswith((_ANTIPHON, "<frozen", *_STANDARD_LIBRARY))
    return not library and not any(part in path for part in _INSTALLED)


def _name(frame: FrameType) -> str:
    module = frame.f_globals.get("__name__") or Path(frame.f_code.co_filename).stem
    return f"{module}.{frame.f_code.co_qualname}"
