"""The record of calls to the outside world: what the runtime reads and writes, and what a person is shown."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from antiphon.errors import AntiphonError, NotFound
from antiphon.model.effects import Effect, EffectState
from antiphon.store.rows import end_of

if TYPE_CHECKING:
    from antiphon.store.base import SqlStore

_COLUMNS = "event_id, handler, name, key, state, calls, result, error, resolution, created_ms, updated_ms"
_CHUNK = 1_000


def effect_row(effect: Effect) -> tuple[Any, ...]:
    """The columns of *effect*, in the order of the ``put_effect`` block."""
    return msgspec.structs.astuple(effect)


def effect_of(row: Any) -> Effect:
    """A row of the table as a value."""
    return msgspec.convert(dict(zip(Effect.__struct_fields__, row, strict=True)), Effect, strict=False)


class EffectDesk:
    """What a person asks and says of the effects of one store."""

    def __init__(self, store: SqlStore) -> None:
        self._store = store

    async def ls(self, states: tuple[EffectState, ...], limit: int = 100) -> list[Effect]:
        """The effects in one of *states*, that changed last first."""
        marks = ", ".join("?" * len(states))
        rows = await self._store.fetch_all(
            f"SELECT {_COLUMNS} FROM antiphon_effects WHERE state IN ({marks}) ORDER BY updated_ms DESC LIMIT ?",  # noqa: S608
            (*states, limit),
        )
        return [effect_of(row) for row in rows]

    async def find(self, key: str) -> list[Effect]:
        """Those whose key begins with *key*, which begins with the event's id; a few at most."""
        if not key:
            return []
        event_id = key.partition(":")[0]
        return [effect_of(row) for row in await self._store.rows("effects_from", (key, event_id, end_of(event_id)))]

    async def resolve(self, effect: Effect, *, done: bool, result: bytes | None, reason: str) -> Effect:
        """Say what became of *effect*; the next attempt goes by it.

        Raises NotFound, and AntiphonError if its outcome is on record, or a person's word on it has been gone by.
        """
        state = EffectState.DONE if done else EffectState.NOT_DONE
        now = self._store.clock.now_ms()
        async with self._store.unit() as unit:
            rows = await unit.fetch_all(unit.query("effect"), (effect.event_id, effect.handler, effect.name))
            if not rows:
                raise NotFound(f"there is no effect {effect.key!r} any more")
            known = effect_of(rows[0])
            is_open = await unit.fetch_all(unit.query("has_delivery"), (effect.event_id, effect.handler))
            if known.result is not None and (known.resolution is None or not is_open):
                raise AntiphonError(f"what became of it is known: {known.state}", where=known.key)
            resolved = msgspec.structs.replace(
                known, state=state, result=result if done else None, resolution=reason, updated_ms=now
            )
            await unit.execute(unit.query("put_effect"), effect_row(resolved))
        return resolved


async def prune_effects(store: SqlStore, before_ms: int) -> None:
    """Remove what has not changed since *before_ms* and belongs to no event of the log any more, in chunks."""
    # A look without the write lock: the table is as long as its events are kept.
    gone = await store.rows("unneeded_effects", (before_ms,))
    for start in range(0, len(gone), _CHUNK):
        async with store.unit() as unit:
            await unit.execute_many(unit.query("end_effect"), gone[start : start + _CHUNK])
