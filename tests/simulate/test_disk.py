"""The simulated disk: what it keeps when the power fails, what it does when it is full, slow or locked."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from antiphon.simulate.disk import SECTOR, described, torn
from antiphon.simulate.process import Killed
from tests.simulate.rig import Rig

Made = Callable[[int], Rig]


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Made]:
    """Makes machines, each in a folder of its own."""
    with ExitStack() as made:

        def make(seed: int) -> Rig:
            folder = tmp_path / str(seed)
            folder.mkdir()
            rig = Rig(folder, seed)
            made.callback(rig.close)
            return rig

        yield make


def test_what_is_committed_survives_a_power_loss_and_what_is_not_does_not(rig: Made) -> None:
    """After the power is back the committed rows are there, and those of the open transaction are not."""
    machine = rig(0)
    process = machine.process("w")
    connection = machine.connect(process)
    machine.write(process, connection, 1, 2)
    machine.run(process, lambda: connection.execute("BEGIN IMMEDIATE"))
    machine.run(process, lambda: connection.execute("INSERT INTO notes VALUES (3, '')"))
    with pytest.raises(Killed):
        machine.power_fails_at_a_read(process, connection)
    assert machine.numbers() == [1, 2]
    assert machine.is_sound()


def test_a_commit_that_the_power_interrupts_is_there_whole_or_not_at_all(rig: Made) -> None:
    """Whatever sectors of its log reached the disk: all rows or none, both happen, and no older row is lost."""
    seen = set()
    for seed in range(60):
        machine = rig(seed)
        process = machine.process("w")
        connection = machine.connect(process)
        machine.write(process, connection, 1)
        machine.once("power", "0.5", "commit")
        with pytest.raises(Killed):
            machine.write(process, connection, *range(2, 40), text="x" * 200)
        assert machine.is_sound()
        assert machine.numbers() in ([1], list(range(1, 40)))
        seen.add(len(machine.numbers()))
    assert seen == {1, 39}


def test_a_checkpoint_that_the_power_interrupts_loses_nothing(rig: Made) -> None:
    """The log is still there while only some of its pages have been copied into the file."""
    for seed in range(30):
        machine = rig(seed)
        process = machine.process("w")
        connection = machine.connect(process)
        machine.write(process, connection, *range(200), text="x" * 100)
        machine.once("power", "0.5", "checkpoint")
        with pytest.raises(Killed):
            machine.run(process, lambda c=connection: c.execute("PRAGMA wal_checkpoint(RESTART)"))  # type: ignore[misc]
        assert machine.is_sound()
        assert machine.numbers() == list(range(200))


def test_commits_that_do_not_wait_for_the_disk_may_be_lost_from_the_end(rig: Made) -> None:
    """With synchronous=NORMAL a power loss takes any number of the last commits, and never one before another."""
    lost = set()
    for seed in range(40):
        machine = rig(seed)
        process = machine.process("w")
        connection = machine.connect(process)
        machine.run(process, lambda c=connection: c.execute("PRAGMA synchronous = NORMAL"))  # type: ignore[misc]
        for number in range(5):
            machine.write(process, connection, number)
        with pytest.raises(Killed):
            machine.power_fails_at_a_read(process, connection)
        left = machine.numbers()
        assert left == list(range(len(left)))
        assert machine.is_sound()
        lost.add(5 - len(left))
    assert {0, 5} <= lost or len(lost) > 2


def test_a_full_disk_refuses_what_is_written_until_there_is_room(rig: Made) -> None:
    """It fails as SQLite fails, with and without rolling back by itself; begun again later, it succeeds."""
    rolled_back = set()
    for seed in range(20):
        machine = rig(seed)
        process = machine.process("w")
        connection = machine.connect(process)
        machine.once("disk", "full:2.0", "write")
        with pytest.raises(sqlite3.OperationalError, match="full") as caught:
            machine.write(process, connection, 1)
        assert caught.value.sqlite_errorcode == sqlite3.SQLITE_FULL
        rolled_back.add(not connection.in_transaction)
        if connection.in_transaction:
            machine.run(process, lambda c=connection: c.execute("ROLLBACK"))  # type: ignore[misc]
        assert machine.numbers() == []
        with pytest.raises(sqlite3.OperationalError):
            machine.write(process, connection, 1)
        machine.loop.busy(3.0)
        if connection.in_transaction:
            machine.run(process, lambda c=connection: c.execute("ROLLBACK"))  # type: ignore[misc]
        machine.write(process, connection, 1)
        assert machine.numbers() == [1]
    assert rolled_back == {True, False}


def test_a_locked_file_refuses_to_begin_and_a_slow_disk_takes_its_time(rig: Made) -> None:
    """``locked`` fails a BEGIN as a foreign writer would; ``slow`` lets time pass at each commit."""
    machine = rig(0)
    process = machine.process("w")
    connection = machine.connect(process)
    machine.once("disk", "locked:1.0", "begin")
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        machine.write(process, connection, 1)
    machine.loop.busy(2.0)
    before = machine.loop.time()
    machine.once("disk", "slow:1.0", "commit")
    machine.write(process, connection, 1)
    assert machine.loop.time() > before
    assert machine.numbers() == [1]


def test_a_dead_process_lets_go_of_its_lock_although_its_cursors_are_kept(rig: Made) -> None:
    """The kernel frees the locks of the dead at once: the next process writes, and nothing uncommitted is there."""
    machine = rig(0)
    first, second = machine.process("a"), machine.process("b")
    connection = machine.connect(first)
    kept = machine.run(first, connection.cursor)
    machine.run(first, lambda: kept.execute("BEGIN IMMEDIATE"))
    machine.run(first, lambda: kept.execute("INSERT INTO notes VALUES (1, 'never')"))
    first.kill()
    machine.write(second, machine.connect(second), 2)
    assert machine.numbers() == [2]
    with pytest.raises(Killed):
        machine.run(first, lambda: kept.execute("INSERT INTO notes VALUES (3, 'never')"))
    with pytest.raises(Killed):
        machine.run(first, connection.close)
    machine.write(second, machine.connect(second), 4)
    assert machine.numbers() == [2, 4]


def test_a_crash_after_a_commit_and_before_anybody_hears_of_it_keeps_it(rig: Made) -> None:
    """The point ``committed`` lies between the commit and its announcement: killed there, the rows are there."""
    machine = rig(0)
    process = machine.process("w")
    connection = machine.connect(process)

    def strike(victim: object, name: str) -> None:
        if name == "committed":
            process.kill()

    machine.strike = strike
    with pytest.raises(Killed):
        machine.write(process, connection, 1)
    assert machine.numbers() == [1]


def test_every_statement_is_a_point_and_says_what_it_does(rig: Made) -> None:
    """Begin, write, commit, the moment after it, read: each is counted once, and described with its values."""
    machine = rig(0)
    process = machine.process("w")
    connection = machine.connect(process)
    machine.effects.records = []
    machine.write(process, connection, 7, text="seven")
    machine.run(process, lambda: connection.execute("SELECT * FROM notes").fetchall())
    assert [record.name for record in machine.effects.records] == ["begin", "write", "commit", "committed", "read"]
    assert described("write", machine.effects.records[1].detail) == "INSERT INTO notes VALUES (?, ?) [(7, 'seven')]"


@given(st.binary(max_size=4 * SECTOR), st.binary(max_size=4 * SECTOR), st.integers(0, 1000))
def test_a_torn_image_is_made_of_old_and_new_sectors(before: bytes, after: bytes, seed: int) -> None:
    """Each sector is the old one, the new one, or was never written; nothing is made up."""
    image = torn(before, after, Random(seed))
    assert len(image) <= max(len(before), len(after))
    for start in range(0, len(image), SECTOR):
        part = image[start : start + SECTOR]
        choices = [source[start : start + SECTOR].ljust(SECTOR, b"\0") for source in (before, after, b"")]
        assert any(choice.startswith(part) or part.rstrip(b"\0") == choice.rstrip(b"\0") for choice in choices)
