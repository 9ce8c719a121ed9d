"""What the channels of an app need of a deployment: libraries, the variables of their URLs, folders to look into."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from antiphon.app import App
from antiphon.channel.connecting import scheme_of
from antiphon.model.channels import ChannelSpec

#: Where the image has the project's directory.
PROJECT = "/app"
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True)
class Variable:
    """A variable of the environment that the app reads: *what* it is, and a *placeholder* for its value."""

    name: str
    what: str
    placeholder: str


@dataclass(frozen=True)
class Folder:
    """A folder outside of the image: *here* on this machine, *inside* the container. *channel* is the first at it."""

    here: Path
    inside: str
    channel: str


def extras_of(app: App) -> set[str]:
    """The extras of Antiphon that the libraries of the channels are."""
    found = (scheme_of(channel.url).extra for channel in app.channels.values())
    return {extra for extra in found if extra is not None}


def variables_of(app: App, environment: Mapping[str, str]) -> list[Variable]:
    """The variables of *environment* that hold the URL of a channel, or its secret: nothing else tells where the app
    has them from. Antiphon's own are none of them."""
    found = []
    for name, value in sorted(environment.items()):
        if name.startswith("ANTIPHON_") or not value or not _VARIABLE.fullmatch(name):
            continue
        at = [channel.name for channel in app.channels.values() if channel.url == value]
        guarded = [channel.name for channel in app.channels.values() if value in _secrets(channel)]
        if at:
            found.append(Variable(name, f"the URL of {_channels(at)}", _without_secrets(value)))
        elif guarded:
            found.append(Variable(name, f"the secret of {_channels(guarded)}", "SECRET"))
    return found


def folders_of(app: App) -> dict[str, Folder]:
    """By channel: the folder that it reads or writes files in. What lies in the project's directory does so in the
    image too."""
    found: dict[str, Folder] = {}
    known: dict[Path, Folder] = {}
    for channel in app.channels.values():
        if (here := _folder(channel)) is None:
            continue
        project = Path.cwd().resolve()
        within = here.is_relative_to(project)
        inside = Path(PROJECT, here.relative_to(project)) if within else here
        found[channel.name] = known.setdefault(here, Folder(here, inside.as_posix(), channel.name))
    return found


def _folder(channel: ChannelSpec) -> Path | None:
    scheme, path = urlsplit(channel.url).scheme, unquote(urlsplit(channel.url).path)
    if scheme == "folder":
        return Path(path).absolute()
    return Path(path).absolute().parent if scheme == "table+sqlite" else None


def _secrets(channel: ChannelSpec) -> list[str]:
    found = channel.options.get("secret", ())
    return [found] if isinstance(found, str) else list(found)


def _channels(names: list[str]) -> str:
    return f"{'channel' if len(names) == 1 else 'channels'} {', '.join(names)}"


def _without_secrets(url: str) -> str:
    """*url* without its options, and with placeholders where user and password go. Several URLs in one are cut off
    after the first."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    path = "" if "@" in parts.path else parts.path
    user = "USER:PASSWORD@" if "@" in parts.netloc else ""
    return parts._replace(netloc=f"{user}{host}", path=path, query="", fragment="").geturl()
