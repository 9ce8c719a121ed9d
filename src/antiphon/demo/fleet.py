"""The processes of one application: started, killed, started again, and stopped at the end."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from antiphon.errors import AntiphonError

PATIENCE_S = 60
#: What no process may log, however often its neighbours die: that is nobody's error.
_UNEXPECTED = re.compile(r"^Traceback| (?:ERROR|CRITICAL) ", re.MULTILINE)


class Fleet:
    """``antiphon run`` once for each of *members*, whose values are the services that it runs.

    The app *reference* is looked for in *cwd* (None: this process's). What a member logs is in
    ``data/<member>.stderr``; its standard input is a pipe that ends when this process does.
    """

    def __init__(
        self,
        reference: str,
        data: Path,
        members: Mapping[str, Sequence[str]],
        environment: Mapping[str, str],
        cwd: Path | None = None,
    ) -> None:
        self._reference = reference
        self._cwd = cwd
        self._data = data
        self._members = members
        self._environment = {**os.environ, **environment}
        self._running: dict[str, asyncio.subprocess.Process] = {}
        self._readers: set[asyncio.Task[None]] = set()
        self._urls: dict[str, str] = {}
        self._changed = asyncio.Condition()
        data.mkdir(parents=True, exist_ok=True)

    @property
    def names(self) -> list[str]:
        """The members."""
        return list(self._members)

    def url(self, name: str) -> str | None:
        """Where a member listens; None while it does not."""
        return self._urls.get(name)

    async def start(self, names: Iterable[str]) -> None:
        """Start members, side by side. Returns before they are ready."""
        for name in names:
            command = ("-m", "antiphon", "run", self._reference, "--services", ",".join(self._members[name]))
            options = ("--data", str(self._data), "--port", "0", "--json", "--log-level", "warning")
            with self._said(name).open("ab") as errors:
                process = await asyncio.create_subprocess_exec(
                    sys.executable,
                    *command,
                    *options,
                    cwd=self._cwd,
                    env=self._environment,
                    stdin=asyncio.subprocess.PIPE,
                    start_new_session=True,  # Ctrl-C is for this process, which lets them drain
                    stdout=asyncio.subprocess.PIPE,
                    stderr=errors,
                )
            self._running[name] = process
            reader = asyncio.create_task(self._read(name, process))
            self._readers.add(reader)
            reader.add_done_callback(self._readers.discard)

    async def ready(self) -> None:
        """Return when all members that run are ready. As what follows, it raises AntiphonError for one that is not."""
        try:
            async with asyncio.timeout(PATIENCE_S), self._changed:
                await self._changed.wait_for(lambda: self._running.keys() <= self._urls.keys())
        except TimeoutError:
            (name, *_) = self._running.keys() - self._urls.keys()
            raise self._ended(name, self._running[name].returncode) from None

    async def kill(self, names: Iterable[str]) -> None:
        """``kill -9``, all of them at once."""
        dying = [(name, self._running.pop(name)) for name in names]
        for name, process in dying:
            self._urls.pop(name, None)
            process.send_signal(signal.SIGKILL)
        for name, process in dying:
            code = await process.wait()
            if code != -signal.SIGKILL:
                raise self._ended(name, code)

    async def stop(self) -> None:
        """Let all members drain and end."""
        for process in self._running.values():
            process.terminate()
        for name, process in self._running.items():
            async with asyncio.timeout(PATIENCE_S):
                if code := await process.wait():
                    raise self._ended(name, code)
        self._running.clear()
        self._urls.clear()

    async def end(self) -> None:
        """Leave nothing behind, whatever has happened."""
        for process in self._running.values():
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
        await asyncio.gather(*self._readers, return_exceptions=True)

    def unexpected(self) -> int:
        """How many times members have said what none should."""
        return sum(len(_UNEXPECTED.findall(self._said(name).read_text("utf-8", "replace"))) for name in self._members)

    async def _read(self, name: str, process: asyncio.subprocess.Process) -> None:
        """Take the address from the line that says that it is ready."""
        assert process.stdout is not None
        async for line in process.stdout:
            with suppress(json.JSONDecodeError):
                said = json.loads(line)
                if self._running.get(name) is process and said.get("ready"):
                    async with self._changed:
                        self._urls[name] = said["url"]
                        self._changed.notify_all()

    def _said(self, name: str) -> Path:
        return self._data / f"{name}.stderr"

    def _ended(self, name: str, code: int | None) -> AntiphonError:
        said = self._said(name).read_text("utf-8", "replace")[-2000:]
        how = f"is not ready after {PATIENCE_S} s" if code is None else f"ended by itself, with {code}"
        return AntiphonError(f"process {name!r} {how}: {said}", where=self._reference)
