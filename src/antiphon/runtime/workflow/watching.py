"""Lets a workflow's function await its own calls, and nothing else."""

from __future__ import annotations

from collections.abc import Coroutine, Generator
from contextlib import suppress
from pathlib import Path
from typing import Any

_OURS = str(Path(__file__).parent)


class ForeignAwait(BaseException):
    """The function awaits something that is no call of the workflow; *place* is its ``file:line``."""

    def __init__(self, place: str) -> None:
        super().__init__(place)
        self.place = place


class Watched:
    """A workflow's function that runs. Awaiting it raises ForeignAwait when it awaits what is outside by itself."""

    __slots__ = ("_coroutine",)

    def __init__(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        self._coroutine = coroutine

    def __await__(self) -> Generator[Any, Any, Any]:
        coroutine = self._coroutine
        thrown: BaseException | None = None
        sent = None
        while True:
            try:
                waiting = coroutine.send(sent) if thrown is None else coroutine.throw(thrown)
            except StopIteration as end:
                return end.value
            thrown = sent = None
            if (place := _foreign(coroutine)) is not None:
                with suppress(Exception, RuntimeError):
                    coroutine.close()
                raise ForeignAwait(place)
            try:
                sent = yield waiting
            except GeneratorExit:
                coroutine.close()
                raise
            except BaseException as error:  # noqa: BLE001  whatever is thrown in is the function's
                thrown = error


def _foreign(function: Any) -> str | None:
    """Where the function awaits something that is none of ours; None if it awaits a call of ours."""
    coroutine = function
    while (code := getattr(coroutine, "cr_code", None)) is not None:
        if code.co_filename.startswith(_OURS):
            return None
        coroutine = coroutine.cr_await
    return f"{function.cr_code.co_filename}:{function.cr_frame.f_lineno}"
