"""Names that survive a power cut: SQLite syncs its own files, what is made or renamed beside them is ours to sync."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def make(folder: Path) -> None:
    """Make *folder*, and those that it lies in, as far as they are not there. Raises OSError."""
    if folder.is_dir():
        return
    make(folder.parent)
    folder.mkdir(exist_ok=True)
    sync(folder.parent)


def sync(folder: Path) -> None:
    """What has been made, renamed or removed in *folder* is on the disk when this returns."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        # As SQLite does: a file system that cannot sync a folder keeps its names in its own way.
        with suppress(OSError):
            os.fsync(fd)
    finally:
        os.close(fd)
