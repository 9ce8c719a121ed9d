"""What a person asks of the runs in one store, and does to them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import msgspec

from antiphon.errors import AntiphonError, NotFound
from antiphon.model.views import LoggedView, run_of
from antiphon.model.workflows import (
    ENDED,
    Advance,
    Record,
    Run,
    RunState,
    RunView,
    advance_envelope,
    shown,
)
from antiphon.ports import INTERNAL
from antiphon.store import workflows as rows
from antiphon.store.rows import end_of

if TYPE_CHECKING:
    from antiphon.store.base import SqlStore


class RunFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which runs are meant: those that match all that is said. *text* is looked for in what they show."""

    workflow: str | None = None
    state: RunState | None = None
    key: str | None = None
    text: str | None = None
    live: bool = False


class Runs:
    """Questions to, and acts on, the runs of one store."""

    def __init__(self, store: SqlStore) -> None:
        self._store = store

    async def find(self, where: RunFilter, *, limit: int = 100) -> list[RunView]:
        """The runs that match, the newest first."""
        return [shown(run) for run in await self._select(where, limit)]

    async def live(self, workflow: str, limit: int = 1_000_000) -> list[tuple[Run, list[Record]]]:
        """The runs of *workflow* that have not ended, with their journals."""
        found = await self._select(RunFilter(workflow=workflow, live=True), limit)
        return [(run, await rows.load_journal(self._fetch, run.nr)) for run in found]

    async def begun_by(self, events: Iterable[LoggedView]) -> list[RunView]:
        """The runs that *events* began, or moved on, with their journals."""
        ids = sorted({run_of(each) for each in events})
        query = self._store.query
        found = await self._store.fetch_all(f"{query('select_runs')} {query('part_of_ids')}", (json.dumps(ids),))
        return [shown(run, await rows.load_journal(self._fetch, run.nr)) for run in map(rows.as_run, found)]

    async def show(self, run_id: str) -> RunView:
        """The run of an id, or of the beginning of one, with its journal. Raises NotFound."""
        run = await self._run(run_id)
        view = shown(run, await rows.load_journal(self._fetch, run.nr))
        dead = await self._fetch("dead_of_run", run.workflow, run.order_key)
        return msgspec.structs.replace(view, dead_letters=tuple(row[0] for row in dead))

    async def act(
        self, run_id: str, act: str, *, reason: str | None = None, name: str | None = None, data: bytes = b"null"
    ) -> RunView:
        """Do *act* to a run: ``cancel``, ``pause``, ``resume``, ``skip``, ``signal``. Whoever runs it carries it out.

        Returns the run as it stands before that. Raises NotFound, AntiphonError if the run has ended, or is in no
        state for it.
        """
        run = await self._run(run_id)
        allowed = {"resume": (RunState.PAUSED, RunState.STUCK), "skip": (RunState.STUCK,)}.get(act)
        if run.state in ENDED or (allowed is not None and run.state not in allowed):
            raise AntiphonError(f"the run is {run.state}, there is nothing to {act}", where=f"{run.workflow} {run.id}")
        clock = self._store.clock
        advance = Advance(run.id, act, name=name, data=msgspec.Raw(data), reason=reason)
        address = (run.workflow, run.order_key, run.correlation_id)
        async with self._store.unit() as unit:
            await unit.append([(advance_envelope(advance, address, clock.new_id(), clock.now_ms()), INTERNAL)])
        return shown(run)

    async def _run(self, run_id: str) -> Run:
        found = await self._fetch("runs_of_id", run_id, end_of(run_id))
        if not found:
            raise NotFound(f"there is no run {run_id!r}", where=self._store.name, mend="antiphon workflow ls")
        if len(found) > 1 and found[0][0] != found[1][0] and found[0][0] != run_id:
            raise NotFound(f"several runs begin with {run_id!r}", where=self._store.name, mend="Give more of it")
        run = await rows.load_run(self._fetch, found[0][0], found[0][1])
        if run is None:
            raise NotFound(f"run {run_id!r} has just been removed", where=self._store.name)
        return run

    async def _select(self, where: RunFilter, limit: int) -> list[Run]:
        terms: list[tuple[str, Any]] = [
            ("workflow = ?", where.workflow),
            ("state = ?", where.state.value if where.state is not None else None),
            ("key = ?", where.key),
            (self._store.query("part_state_contains"), where.text),
        ]
        said = [(term, value) for term, value in terms if value is not None]
        conditions = [term for term, _ in said]
        if where.live:
            conditions.append("state IN ('RUNNING', 'WAITING', 'PAUSED', 'COMPENSATING', 'STUCK')")
        sql = self._store.query("select_runs") + (f" WHERE {' AND '.join(conditions)}" if conditions else "")
        parameters = (*(value for _, value in said), limit)
        found = await self._store.fetch_all(f"{sql} ORDER BY nr DESC LIMIT ?", parameters)
        return [rows.as_run(row) for row in found]

    async def _fetch(self, name: str, *parameters: Any) -> Any:
        return await self._store.rows(name, parameters)
