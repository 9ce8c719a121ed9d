"""Imports the application that a command is about."""

from __future__ import annotations

import sys
import traceback
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from antiphon.cli.exits import CommandError, Exit
from antiphon.errors import DeclarationError

if TYPE_CHECKING:
    from antiphon.app import App

_LIBRARY = str(Path(__file__).parents[1])


def load(reference: str) -> App:
    """The app that ``module:attribute`` names; the current directory is searched first.

    Raises CommandError with the file and line of what goes wrong in the application.
    """
    from antiphon.app import App

    module_name, _, attribute = reference.partition(":")
    attribute = attribute or "app"
    if not all(part.isidentifier() for part in module_name.split(".")):
        raise CommandError(
            f"{reference!r} names no module",
            code=Exit.USAGE,
            mend="Write module:attribute, as in examples.flight_booking:app",
        )
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    found = _attribute(_module(module_name), module_name, attribute)
    if not isinstance(found, App):
        raise _unusable(
            f"{attribute} is {type(found).__name__}, not an App",
            where=module_name,
            mend=f"Write {attribute} = App(...) there",
        )
    try:
        found.specs  # noqa: B018  annotations that were waited for are resolved here
    except DeclarationError as error:
        raise _unusable(error.what, where=error.where, mend=error.mend) from error
    return found


def _module(name: str) -> Any:
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{name}.".startswith(f"{error.name}."):
            raise _unusable(
                f"there is no module {error.name!r}",
                where=name,
                mend=f"Run antiphon where it can be imported from (now {Path.cwd()}), or set PYTHONPATH",
            ) from error
        raise _unusable(f"{error}", where=_place(error), mend="Install it, or mend the import") from error
    except DeclarationError as error:
        raise _unusable(error.what, where=error.where or _place(error), mend=error.mend) from error
    except SyntaxError as error:
        raise _unusable(f"{error.msg}", where=f"{error.filename}:{error.lineno}") from error
    except (Exception, SystemExit) as error:
        raise _unusable(f"{type(error).__name__}: {error}", where=_place(error)) from error


def _attribute(module: Any, module_name: str, attribute: str) -> Any:
    from antiphon.app import App

    try:
        return getattr(module, attribute)
    except AttributeError:
        apps = [f"{module_name}:{name}" for name, value in vars(module).items() if isinstance(value, App)]
        raise _unusable(
            f"it has no attribute {attribute!r}",
            where=str(module.__file__ or module_name),
            mend=f"Its apps are: {', '.join(apps)}" if apps else f"Write {attribute} = App(...) there",
        ) from None


def _unusable(what: str, *, where: str, mend: str = "") -> CommandError:
    return CommandError(what, code=Exit.APPLICATION, where=where, mend=mend or "Mend the application's code")


def _place(error: BaseException) -> str:
    """``file:line`` of the last frame that is the application's own."""
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith((_LIBRARY, "<frozen"))
    ]
    return f"{frames[-1].filename}:{frames[-1].lineno}" if frames else ""
