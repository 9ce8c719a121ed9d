"""Which process serves which service: each leaves its address in the data directory while it runs, and of those on
other machines the gateway is told."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from antiphon.runtime.runtime import Runtime

_LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})


class Neighbour(msgspec.Struct, frozen=True):
    """A process that serves the routes of *services* at *url*, for other processes."""

    owner: str
    url: str
    services: frozenset[str]


class Neighbours:
    """The processes that serve HTTP on one data directory, and at *elsewhere*: URLs on other machines, by service."""

    def __init__(self, runtime: Runtime, elsewhere: Mapping[str, str] | None = None) -> None:
        self._elsewhere = dict(elsewhere or {})
        self.folder = runtime.data / "run"
        self._owner = runtime.owner
        self._services = frozenset(runtime.stores)
        # Every process that works on this directory has the last log open, and shows there that it lives.
        self._store = runtime.logs[-1]
        self._clock = runtime.clock

    def register(self, url: str) -> None:
        """Say that this process serves its services at *url*, an address of the loopback interface."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path, draft = self._path(self._owner), self.folder / f"{self._owner}.new"
        draft.touch(mode=0o600)
        draft.write_bytes(msgspec.json.encode(Neighbour(self._owner, url, self._services)))
        draft.replace(path)

    def withdraw(self) -> None:
        """Say that this process serves nothing any more. Idempotent."""
        self._path(self._owner).unlink(missing_ok=True)

    async def serving(self, service: str) -> list[Neighbour]:
        """Who serves *service*: elsewhere, where that was said, else the living processes here, in random order."""
        if (url := self._elsewhere.get(service)) is not None:
            # Containers may share a directory, and yet not the loopback interface that its addresses are of.
            return [Neighbour("", url, frozenset({service}))]
        found = [each for each in self._all() if service in each.services and await self._is_reachable(each)]
        return sorted(found, key=lambda _: self._clock.random())

    def _all(self) -> list[Neighbour]:
        found = []
        for path in self.folder.glob("*.json"):
            with contextlib.suppress(FileNotFoundError, msgspec.DecodeError):
                found.append(msgspec.json.decode(path.read_bytes(), type=Neighbour))
        return found

    async def _is_reachable(self, neighbour: Neighbour) -> bool:
        if neighbour.owner == self._owner or urlsplit(neighbour.url).hostname not in _LOOPBACK:
            return False
        if await self._store.is_alive(neighbour.owner):
            return True
        self._path(neighbour.owner).unlink(missing_ok=True)
        return False

    def _path(self, owner: str) -> Path:
        return self.folder / f"{owner}.json"
