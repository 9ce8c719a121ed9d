"""What processes take, read from ``/proc``: CPU seconds and memory. Linux only, as Antiphon's own locks are."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

_TICK = os.sysconf("SC_CLK_TCK")
_PROC = Path("/proc")


class Process(NamedTuple):
    """A line of ``/proc/PID/stat``: seconds of CPU of its own, and of its children that have ended."""

    pid: int
    name: str
    group: int
    session: int
    cpu_s: float
    ended_children_s: float


def processes() -> Iterator[Process]:
    """Every process of this machine."""
    for folder in _PROC.iterdir():
        if not folder.name.isdigit():
            continue
        try:
            stat = (folder / "stat").read_text()
        except OSError:
            continue  # it has just ended
        name = stat[stat.index("(") + 1 : stat.rindex(")")]
        fields = stat[stat.rindex(")") + 2 :].split()
        own, children = int(fields[11]) + int(fields[12]), int(fields[13]) + int(fields[14])
        yield Process(int(folder.name), name, int(fields[2]), int(fields[3]), own / _TICK, children / _TICK)


def of_group(group: int) -> list[Process]:
    """A worker with all that it has started."""
    return [each for each in processes() if each.group == group]


def of_session(session: int) -> list[Process]:
    """A measurement with its workers."""
    return [each for each in processes() if each.session == session]


def named(name: str) -> list[Process]:
    """The processes of a server."""
    return [each for each in processes() if each.name == name]


def cpu_s(found: Iterable[Process]) -> float:
    """Seconds of CPU that they have taken so far, with those of their children that have ended."""
    return sum(each.cpu_s + each.ended_children_s for each in found)


def memory_mib(pids: Iterable[int]) -> float:
    """Resident memory of processes that belong together; what they share, code included, is counted once."""
    own, mapped = 0, 0
    for pid in pids:
        try:
            text = (_PROC / str(pid) / "smaps_rollup").read_text()
        except OSError:
            continue  # it has just ended
        kib = {line.split(":")[0]: int(line.split()[1]) for line in text.splitlines()[1:]}
        own += kib["Pss_Anon"]
        mapped = max(mapped, kib["Rss"] - kib["Anonymous"])
    return (own + mapped) / 1024


def kill(found: Iterable[Process]) -> None:
    """SIGKILL to all of them, at once."""
    for each in found:
        try:
            os.kill(each.pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
