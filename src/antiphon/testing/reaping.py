"""What a killed test leaves behind is ended: its servers, and their folder."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from pathlib import Path

#: Reads lines of process groups until whoever writes them dies, however that is: the pipe ends. The last line counts.
_SCRIPT = """
groups=
while read -r line; do groups=$line; done
for group in $groups; do kill -s KILL -- "-$group"; done
rm -rf -- "$1" || { sleep 1; rm -rf -- "$1"; }
"""


class Reaper:
    """Looks after process groups and a folder, in a process of its own, until `end`."""

    def __init__(self, folder: Path) -> None:
        nothing = subprocess.DEVNULL
        # In a session of its own: Ctrl-C is not for it.
        self._process = subprocess.Popen(
            ("/bin/sh", "-c", _SCRIPT, "reaper", str(folder)),
            stdin=subprocess.PIPE,
            stdout=nothing,
            stderr=nothing,
            cwd="/",
            start_new_session=True,
        )

    def note(self, groups: Iterable[int]) -> None:
        """These run now, and no others."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{' '.join(map(str, groups))}\n".encode())
        self._process.stdin.flush()

    def end(self) -> None:
        """There is nothing more to look after. Idempotent."""
        self._process.kill()
        self._process.wait()
        if self._process.stdin is not None:
            self._process.stdin.close()
