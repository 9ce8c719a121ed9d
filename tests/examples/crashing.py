"""Kills a service of an application after each of its commits in turn, and looks what comes of it at the end.

What was not committed is gone after a crash, so these are all the places at which one makes a difference.
"""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest

from antiphon import App, seconds
from antiphon.store.sqlite.store import SqliteStore
from antiphon.store.sqlite.writer import Group
from antiphon.testing import World
from antiphon.testing.process import process_here, start_outside

#: What a commit has to change to count: a renewed lease or a sign of life is no step.
_STANDING = """SELECT count(*) FROM antiphon_log UNION ALL SELECT total(rev) FROM antiphon_runs
    UNION ALL SELECT count(*) FROM antiphon_timers UNION ALL SELECT count(*) FROM antiphon_deliveries
    UNION ALL SELECT count(*) FROM antiphon_effects UNION ALL SELECT count(*) FROM antiphon_inbox
    UNION ALL SELECT total(seq) FROM antiphon_handlers UNION ALL SELECT total(seq) FROM antiphon_positions"""
#: The lease of a process that is dead has run out after this.
_LEASES_END = seconds(20)


class Life:
    """A world one of whose services dies after the *at*-th commit (None: none does), and is started again."""

    def __init__(self, world: World, at: int | None) -> None:
        self.world = world
        self.steps = 0
        #: Starting up is no step.
        self.has_begun = False
        self._at = at
        self._seen: dict[str, set[tuple[Any, ...]]] = {}

    async def post(self, path: str, body: dict[str, Any]) -> Any:
        """What the gateway answers to a client that asks again, with its Idempotency-Key, until it does."""
        headers = {"Idempotency-Key": f"{path} {sorted(body.items())}"}
        for _ in range(3):
            try:
                answer = await self.world.request("POST", path, json=body, headers=headers)
            except ConnectionError:
                await self.mend()
                continue
            assert answer.status_code < 300, answer.text
            return answer.json()
        raise AssertionError(f"POST {path} is not answered")

    async def passes(self, span: timedelta) -> None:
        """Let time pass, also for who has died meanwhile."""
        await self.world.advance(span)
        await self.mend()

    async def mend(self) -> None:
        """Start again what has died."""
        await self.world.settle()
        for service in self.world.app.services:
            if service not in self.world._running:
                await self.world.restart(service)
                await self.world.advance(_LEASES_END)

    def committed(self, store: SqliteStore) -> None:
        """A commit is durable; nobody has been told yet."""
        here = process_here()
        if here is None or not self.has_begun:
            return
        standing = tuple(tuple(row) for row in store.writer.connection.execute(_STANDING).fetchall())
        seen = self._seen.setdefault(str(store.path), set())
        if standing in seen:
            return
        seen.add(standing)
        self.steps += 1
        if self.steps == self._at:
            here.kill()
            start_outside(self.world.crash(here.name))


@contextmanager
def _watched(life: Life) -> Iterator[None]:
    committed = SqliteStore._committed

    def watched(store: SqliteStore, group: Group) -> None:
        life.committed(store)
        committed(store, group)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SqliteStore, "_committed", watched)
        yield


async def crash_after_every_commit(
    app: App, play: Callable[[Life], Awaitable[None]], look: Callable[[World], Any], *, every: int = 1
) -> int:
    """Play without a crash, and then with one after each commit (or each of so many); each time *look* must see the
    same at the end.

    Returns how many commits there were.
    """

    async def lived(at: int | None) -> tuple[Any, int]:
        world = app.test()
        life = Life(world, at)
        with _watched(life):
            async with world:
                life.has_begun = True
                await play(life)
                await life.passes(_LEASES_END)
                return look(world), life.steps

    expected, steps = await lived(None)
    for at in itertools.count(1, every):
        if at > steps:
            return steps
        found, _ = await lived(at)
        assert found == expected, f"after a crash behind commit {at} of {steps}"
    raise AssertionError
