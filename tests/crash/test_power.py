"""Power cuts at every write: what was acknowledged is there with FULL, and nothing is ever corrupt with NORMAL."""

import random

import pytest

from tests.crash.disk import SECTOR, Operation, Platter
from tests.crash.life import Synchronous, record
from tests.crash.power import Outcome, cut, room, run

IMAGES = 240


def held(outcomes: dict[Synchronous, Outcome], images: int) -> None:
    """No image was violated, and the images were worth it."""
    full, normal = outcomes["FULL"], outcomes["NORMAL"]
    assert not full.findings
    assert not normal.findings
    assert full.images + normal.images == images
    assert full.resumed > 0
    assert full.missing == 0


def test_a_power_cut_loses_nothing_that_was_acknowledged() -> None:
    """A few hundred disks, after operations here and there; some are worked on after the reboot."""
    with room() as folder:
        held(run(folder, images=IMAGES, seed=20261121), IMAGES)


def test_the_cut_finds_a_store_that_does_not_sync() -> None:
    """With synchronous=OFF the same audit sees corrupt files and lost orders: it can."""
    with room() as folder:
        outcome = cut(record(folder, "OFF"), folder, IMAGES // 3, 1)
    assert outcome.findings["lost: acknowledged"] > 0
    assert sum(count for finding, count in outcome.findings.items() if finding.startswith("broken")) > 0


@pytest.mark.soak
def test_ten_thousand_power_cuts() -> None:
    """Every write and every sync of a life, several times."""
    with room() as folder:
        held(run(folder, images=10_000, seed=1), 10_000)


def images_of(operations: list[Operation]) -> list[dict[str, bytes]]:
    """Many ways in which the power may go after *operations*."""
    platter, chance = Platter(), random.Random(1)
    for operation in operations:
        platter.apply(operation)
    return [platter.image(chance) for _ in range(200)]


NEW = [Operation("create", "d/a", 1), Operation("sync folder", "d")]
OLD = [*NEW, Operation("write", 1, 0, b"o" * 2 * SECTOR), Operation("sync", 1)]


def test_what_was_synced_is_certain() -> None:
    """Each image has it, and nothing else."""
    assert images_of(OLD) == [{"d/a": b"o" * 2 * SECTOR}] * 200


def test_what_was_not_synced_may_arrive_in_part() -> None:
    """Of two sectors both, either one, or none; a size may be the old one."""
    found = {image["d/a"] for image in images_of([*OLD, Operation("write", 1, 0, b"n" * 2 * SECTOR)])}
    assert found == {first * SECTOR + second * SECTOR for first in (b"o", b"n") for second in (b"o", b"n")}
    longer = images_of([*OLD, Operation("write", 1, 2 * SECTOR, b"n" * SECTOR)])
    assert {len(image["d/a"]) for image in longer} == {2 * SECTOR, 3 * SECTOR}
    assert len({image["d/a"] for image in longer}) > 3  # a sector that has not arrived holds anything
    shorter = images_of([*OLD, Operation("truncate", 1, 0)])
    assert {len(image["d/a"]) for image in shorter} == {0, 2 * SECTOR}


def test_a_name_is_certain_once_its_folder_was_synced() -> None:
    """A file that was made or deleted since may be there or not; another folder's sync says nothing."""
    made = images_of([Operation("create", "d/a", 1), Operation("sync folder", "e")])
    assert {tuple(image) for image in made} == {(), ("d/a",)}
    deleted = [*OLD, Operation("delete", "d/a")]
    assert {tuple(image) for image in images_of(deleted)} == {(), ("d/a",)}
    assert images_of([*deleted, Operation("sync folder", "d")]) == [{}] * 200
