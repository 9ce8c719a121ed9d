"""What is made beside SQLite's files is on the disk when it is relied upon."""

import os
from pathlib import Path

import pytest

from antiphon.store.sqlite import folders
from antiphon.store.sqlite.host import secret


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The inodes that have been synced so far, in order."""
    found: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda fd: found.append(os.fstat(fd).st_ino))
    return found


def test_a_secret_survives_a_power_cut(tmp_path: Path, synced: list[int]) -> None:
    """First its content, then its name: a repeated request must not be taken for another one after a reboot."""
    assert len(secret(tmp_path)) == 32
    assert synced == [(tmp_path / "secret").stat().st_ino, tmp_path.stat().st_ino]
    assert secret(tmp_path) == secret(tmp_path)


def test_folders_are_made_with_their_names(tmp_path: Path, synced: list[int]) -> None:
    """Each new folder is in the one above it for good; those that are there already cost nothing."""
    folders.make(tmp_path / "a" / "b")
    assert synced == [tmp_path.stat().st_ino, (tmp_path / "a").stat().st_ino]
    folders.make(tmp_path / "a" / "b")
    assert len(synced) == 2
