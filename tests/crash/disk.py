"""A disk that is watched, and can lose power: what SQLite wrote and synced, and what may be left of it.

`Recording` notes every operation on the files below a folder. `Platter` plays them again, up to any of them, and gives
images of what may be on the disk if the power goes there. Certain is what was synced. Of all else, each sector of 512
bytes has arrived or not, in any order and apart from its neighbours; a size may be an old one; a file may be there,
gone or back unless its folder was synced.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple
from unittest import mock

import apsw

SECTOR = 512
Kind = Literal["create", "delete", "write", "truncate", "sync", "sync folder", "note"]


class Operation(NamedTuple):
    """*what*: a path below the folder for ``create``, ``delete`` and ``sync folder``, a file's number for the rest.

    *value*: the file's number (create), where (write), the new size (truncate), or what was noted.
    """

    kind: Kind
    what: Any
    value: Any = None
    data: bytes = b""


class Recording(apsw.VFS):
    """A file system, *name*, that does what the usual one does, and notes it."""

    def __init__(self, name: str, folder: Path) -> None:
        self.operations: list[Operation] = []
        self.folder = folder.resolve()
        self._numbers: dict[str, int] = {}
        self._last = 0
        super().__init__(name, "")

    def note(self, what: str, value: Any) -> None:
        """Note what somebody was told by now."""
        self.operations.append(Operation("note", what, value))

    def xOpen(self, name: Any, flags: list[int]) -> apsw.VFSFile:  # noqa: N802  apsw's
        """Open a file; a new one is noted."""
        path = self._below(name.filename() if isinstance(name, apsw.URIFilename) else name)
        if path not in self._numbers and flags[0] & apsw.SQLITE_OPEN_CREATE:
            self._last += 1
            self._numbers[path] = self._last
            self.operations.append(Operation("create", path, self._last))
        # As in SQLite's own code: the first sync of a journal syncs its folder too.
        is_journal = bool(flags[0] & (apsw.SQLITE_OPEN_WAL | apsw.SQLITE_OPEN_MAIN_JOURNAL))
        return _File(self, name, flags, self._numbers[path], _folder_of(path) if is_journal else None)

    def xDelete(self, name: str, syncdir: bool) -> None:  # noqa: N802
        """Delete a file."""
        super().xDelete(name, syncdir)
        path = self._below(name)
        self._numbers.pop(path, None)
        self.operations.append(Operation("delete", path))
        if syncdir:
            self.operations.append(Operation("sync folder", _folder_of(path)))

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Meanwhile note what is renamed, and which folders are synced, by others than SQLite."""
        rename, fsync = os.rename, os.fsync

        def renamed(source: Any, target: Any, **more: Any) -> None:
            rename(source, target, **more)
            before, after = self._below(source), self._below(target)
            if before in self._numbers:
                self._numbers[after] = self._numbers.pop(before)
                self.operations += [Operation("create", after, self._numbers[after]), Operation("delete", before)]

        def synced(fd: int) -> None:
            fsync(fd)
            for folder in {_folder_of(path) for path in self._numbers}:
                if os.path.samestat((self.folder / folder).stat(), os.fstat(fd)):
                    self.operations.append(Operation("sync folder", folder))

        with mock.patch.object(os, "rename", renamed), mock.patch.object(os, "fsync", synced):
            yield

    def _below(self, path: Any) -> str:
        return os.path.relpath(os.path.realpath(path), self.folder)


class _File(apsw.VFSFile):
    """A file whose operations are noted; *syncs_folder* at its first sync."""

    def __init__(self, vfs: Recording, name: Any, flags: list[int], number: int, syncs_folder: str | None) -> None:
        self._operations = vfs.operations
        self._number = number
        self._syncs_folder = syncs_folder
        super().__init__("", name, flags)

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802
        self._operations.append(Operation("write", self._number, offset, bytes(data)))
        super().xWrite(data, offset)

    def xTruncate(self, size: int) -> None:  # noqa: N802
        self._operations.append(Operation("truncate", self._number, size))
        super().xTruncate(size)

    def xSync(self, flags: int) -> None:  # noqa: N802
        super().xSync(flags)
        self._operations.append(Operation("sync", self._number))
        if self._syncs_folder is not None:
            self._operations.append(Operation("sync folder", self._syncs_folder))
            self._syncs_folder = None


class Platter:
    """What has arrived for certain, and what is on its way."""

    def __init__(self) -> None:
        self._files: dict[int, _Content] = {}
        #: For each path the files that it may name: the one of the last sync of its folder, and all since.
        self._names: dict[str, list[int | None]] = {}

    def apply(self, operation: Operation) -> None:
        """One more operation has happened."""
        kind, what, value, data = operation
        match kind:
            case "create":
                self._files.setdefault(value, _Content())
                self._names.setdefault(what, [None]).append(value)
            case "delete":
                self._names.setdefault(what, [None]).append(None)
            case "write":
                self._files[what].write(value, data)
            case "truncate":
                self._files[what].truncate(value)
            case "sync":
                self._files[what].sync()
            case "sync folder":
                for path, numbers in self._names.items():
                    if _folder_of(path) == what:
                        del numbers[:-1]

    def image(self, chance: random.Random) -> dict[str, bytes]:
        """One way in which the power may go now: what each path then holds."""
        # Nothing that is on its way arrives, or all of it (as if a process was killed), or some.
        share = chance.choice((0.0, 1.0, chance.random(), chance.random()))
        image = {}
        for path, numbers in self._names.items():
            number = _one_of(numbers, share, chance)
            if number is not None:
                image[path] = self._files[number].image(share, chance)
        return image


class _Content:
    """The content of one file."""

    def __init__(self) -> None:
        self._durable = b""
        self._now = bytearray()
        #: What each sector that was touched since the last sync may hold, and what the size may be.
        self._sectors: dict[int, list[bytes]] = {}
        self._sizes = [0]

    def write(self, offset: int, data: bytes) -> None:
        if len(self._now) < offset:
            self._touch(len(self._now), offset)
            self._now.extend(bytes(offset - len(self._now)))
        self._now[offset : offset + len(data)] = data
        self._touch(offset, offset + len(data))

    def truncate(self, size: int) -> None:
        before = len(self._now)
        del self._now[size:]
        self._now.extend(bytes(size - len(self._now)))
        self._touch(min(before, size), max(before, size))

    def sync(self) -> None:
        self._durable = bytes(self._now)
        self._sectors.clear()
        self._sizes = [len(self._now)]

    def image(self, share: float, chance: random.Random) -> bytes:
        size = _one_of(self._sizes, share, chance)
        image = bytearray(self._durable[:size].ljust(size, b"\0"))
        for number, versions in self._sectors.items():
            start = number * SECTOR
            version = _one_of(versions, share, chance)
            if not version and chance.random() < 0.5:
                version = chance.randbytes(SECTOR)  # never written: whatever was there of an earlier file
            image[start : start + SECTOR] = version.ljust(SECTOR, b"\0")
        return bytes(image[:size])

    def _touch(self, start: int, end: int) -> None:
        self._sizes.append(len(self._now))
        for number in range(start // SECTOR, -(-end // SECTOR)):
            place = slice(number * SECTOR, (number + 1) * SECTOR)
            self._sectors.setdefault(number, [self._durable[place]]).append(bytes(self._now[place]))


def _one_of(versions: list[Any], share: float, chance: random.Random) -> Any:
    """The first with a *share* of 0, the last with 1; else the last or any other."""
    if share in (0.0, 1.0):
        return versions[-1] if share else versions[0]
    return versions[-1] if chance.random() < share else chance.choice(versions)


def _folder_of(path: str) -> str:
    return str(Path(path).parent)
