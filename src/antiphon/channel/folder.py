"""A folder of CSV or JSON-lines files: each record an event; and JSON lines that are appended to.

A place of what comes in is a pattern of file names (``*.csv``, ``orders-*.jsonl``). Files are read in the order of
their names, each from where it was left; a last line without its end waits for it. Up to where each has been read lies
in the channel's store. A file whose beginning is another than before is another file, read from its start. A record's
id is the file's name, its number in it and a digest of it: the same file twice is taken once.

A place of what goes out is a file's name, to which lines are added; nobody else may write to it.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from fnmatch import fnmatchcase
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import BinaryIO
from urllib.parse import unquote, urlsplit

import msgspec

from antiphon.channel.mapping import structured
from antiphon.errors import BusError
from antiphon.model.channels import ChannelSpec, Message
from antiphon.ports import Clock
from antiphon.wire import STRUCTURED

_CHUNK = 1 << 20
#: A record that is longer has no end that anybody would find: so much of it is set aside at a time.
_LONGEST = 16 << 20
#: So much of a file tells it from another of its name.
_HEAD = 1 << 10


class Place(msgspec.Struct, frozen=True):
    """Up to where a file has been read: its byte, the number of the record there, the digest of its first *size*."""

    at: int = 0
    number: int = 0
    size: int = 0
    digest: str = ""


def _folder(channel: ChannelSpec) -> Path:
    return Path(unquote(urlsplit(channel.url).path))


class ChannelSource:
    """Reads the files of a folder (``ports.Source``)."""

    def __init__(self, channel: ChannelSpec, clock: Clock) -> None:
        self._folder = _folder(channel)
        self._patterns = tuple(channel.inbound)
        self._clock = clock
        self._every: timedelta = channel.options.get("every", timedelta(seconds=1))
        self._delimiter: str = channel.options.get("delimiter", ",")
        self._encoding: str = channel.options.get("encoding", "utf-8")
        self._places: dict[str, Place] = {}

    async def open(self, notes: Mapping[str, str]) -> None:
        """See that the folder is there. Raises BusError."""
        self._places = {name: msgspec.json.decode(note, type=Place) for name, note in notes.items()}
        if not self._folder.is_dir():
            raise BusError("there is no such folder", where=str(self._folder))

    async def receive(self, limit: int) -> Sequence[Message]:
        """The next records; none when nothing new has come for a while. Raises OSError."""
        found: list[Message] = await self._clock.run_blocking(lambda: self._read(limit))
        if not found:
            await self._clock.sleep(self._every.total_seconds())
        return found

    async def acknowledge(self, messages: Sequence[Message]) -> None:
        """Nothing: the notes tell."""

    async def close(self) -> None:
        """Nothing is open."""

    # ------------------------------------------------------------------ inside, in a thread

    def _read(self, limit: int) -> list[Message]:
        found: list[Message] = []
        for path in sorted(self._folder.iterdir()):
            pattern = next((each for each in self._patterns if fnmatchcase(path.name, each)), None)
            if pattern is None or not path.is_file() or self._leads_out(path):
                continue
            with path.open("rb") as file:
                for message in self._records(path, pattern, file):
                    found.append(message)
                    if len(found) >= limit:
                        return found
        return found

    def _leads_out(self, path: Path) -> bool:
        """Whether it is a link to what lies elsewhere: who puts files here may not have others of this machine read."""
        return path.is_symlink() and not path.resolve().is_relative_to(self._folder.resolve())

    def _records(self, path: Path, pattern: str, file: BinaryIO) -> Iterator[Message]:
        # Whatever bytes it is called by.
        name = os.fsencode(path.name).decode(errors="backslashreplace")
        is_csv = not name.endswith((".jsonl", ".ndjson", ".json"))
        place = self._place_in(name, file)
        columns, no_columns = self._columns(name, file) if is_csv else ([], None)
        file.seek(place.at)
        at, number = place.at, place.number
        size, digest = place.size, place.digest
        for raw in _split(file, is_csv):
            at += len(raw)
            number += 1
            if size < _HEAD:
                size, digest = self._head_of(file, at)
            place = self._places[name] = Place(at, number, size, digest)
            note = (name, msgspec.json.encode(place).decode())
            if (is_csv and number == 1) or not raw.strip():
                # The names of the columns, or an empty line.
                yield Message(topic=pattern, body=b"", note=note, is_mark=True)
                continue
            message = self._message(pattern, name, number, raw, columns if is_csv else None, note)
            yield msgspec.structs.replace(message, problem=no_columns) if no_columns else message

    def _place_in(self, name: str, file: BinaryIO) -> Place:
        """Up to where this file has been read; its start, if it is another one than that of this name before."""
        known = self._places.get(name, Place())
        file.seek(0, os.SEEK_END)
        if file.tell() < known.at or (self._head_of(file, known.size)[1] != known.digest and known.size):
            return Place()
        return known

    def _head_of(self, file: BinaryIO, size: int) -> tuple[int, str]:
        here = file.tell()
        file.seek(0)
        head = file.read(min(size, _HEAD))
        file.seek(here)
        return len(head), blake2b(head, digest_size=16).hexdigest()

    def _columns(self, name: str, file: BinaryIO) -> tuple[list[str], str | None]:
        """The names of the columns, and what is wrong with them."""
        file.seek(0)
        raw = next(_split(file, True), b"")
        try:
            return [each.strip() for each in self._fields(raw.removeprefix(b"\xef\xbb\xbf"))], None
        except (ValueError, csv.Error) as error:
            return [], f"the names of the columns of {name} cannot be read: {error}"

    def _fields(self, raw: bytes) -> list[str]:
        text = raw.decode(self._encoding)
        return next(csv.reader(text.splitlines(keepends=True), delimiter=self._delimiter, strict=True), [])

    def _message(
        self, pattern: str, name: str, number: int, raw: bytes, columns: list[str] | None, note: tuple[str, str]
    ) -> Message:
        row, problem, content_type = None, None, "text/csv"
        if columns is None:
            content_type = STRUCTURED if b'"specversion"' in raw else "application/json"
        else:
            try:
                fields = self._fields(raw)
            except (ValueError, csv.Error) as error:
                problem = f"line {number} of {name}: {error}"
            else:
                row = dict(zip(columns, fields, strict=False))
                if len(fields) != len(columns):
                    problem = f"line {number} of {name} has {len(fields)} fields, and there are {len(columns)} columns"
        digest = blake2b(raw.strip(), digest_size=8).hexdigest()
        return Message(
            topic=pattern,
            body=raw.strip(),
            content_type=content_type,
            headers={"file": name},
            id=f"{name}:{number}:{digest}",
            row=row,
            note=note,
            problem=problem,
        )


def _split(file: BinaryIO, is_csv: bool) -> Iterator[bytes]:
    """The records from where *file* stands, with their ends. What has none yet is left for later."""
    record, quotes = bytearray(), 0
    while line := file.readline(_CHUNK):
        record += line
        quotes += line.count(b'"')
        if len(record) > _LONGEST or (line.endswith(b"\n") and not (is_csv and quotes % 2)):
            yield bytes(record)
            record, quotes = bytearray(), 0


class ChannelSink:
    """Adds lines to files of a folder (``ports.Sink``), each batch synced to the disk before it is confirmed."""

    def __init__(self, channel: ChannelSpec, clock: Clock) -> None:
        self._folder = _folder(channel)
        self._names = tuple(channel.outbound)
        self._clock = clock

    async def open(self) -> None:
        """Make the folder; take away what a crash has left of a line. Raises OSError."""
        await self._clock.run_blocking(self._mend)

    async def send(self, messages: Sequence[Message]) -> Mapping[int, str]:
        """Add a line for each; a body of several lines has no place in one. Raises OSError."""
        lines: dict[str, list[bytes]] = {}
        refused: dict[int, str] = {}
        for index, message in enumerate(messages):
            line = structured(message)
            if message.attributes:
                line = line.replace(b"\n", b" ")  # in JSON it stands between its parts only
            if b"\n" in line:
                refused[index] = "it has several lines, and the file holds one for each message"
                continue
            lines.setdefault(message.topic, []).append(line + b"\n")
        for name, added in lines.items():
            await self._clock.run_blocking(partial(self._add, name, b"".join(added)))
        return refused

    async def close(self) -> None:
        """Nothing is open."""

    def _add(self, name: str, lines: bytes) -> None:
        with (self._folder / name).open("ab") as file:
            file.write(lines)
            file.flush()
            os.fsync(file.fileno())

    def _mend(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        for name in self._names:
            path = self._folder / name
            with path.open("ab+") as file:
                end = file.tell()
                while end:
                    start = max(0, end - _HEAD)
                    file.seek(start)
                    cut = file.read(end - start).rfind(b"\n")
                    end = start + cut + 1 if cut >= 0 else start
                    if cut >= 0:
                        break
                file.truncate(end)
                os.fsync(file.fileno())
        folder = os.open(self._folder, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
