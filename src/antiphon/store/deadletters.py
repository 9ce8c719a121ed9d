"""Dead letters: found, grouped, shown, redriven, edited, archived."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from antiphon.errors import AntiphonError, NotFound, UnknownVersion
from antiphon.model.delivery import Status
from antiphon.model.envelope import Envelope
from antiphon.model.events import EventType
from antiphon.model.jsontext import strict_json
from antiphon.model.views import (
    NO_FINGERPRINT,
    DeadLetterDetail,
    DeadLetterFilter,
    DeadLetterGroup,
    DeadLetterView,
    LoggedView,
    RedriveJob,
    RedrivePlan,
)
from antiphon.ports import INTERNAL
from antiphon.store import redrives
from antiphon.store.base import SqlStore
from antiphon.store.looking import full_id, histories, view_of
from antiphon.store.rows import end_of
from antiphon.store.units import SqlUnit

ALL = DeadLetterFilter()

_EXAMPLES = 5
# Rows that are archived in one transaction.
_CHUNK = 500

Where = tuple[str, list[Any]]


class DeadLetters:
    """The dead letters of one store.

    One of them is named by its event's id, or the unique beginning of one, and by its handler where the
    event is dead for several.
    """

    def __init__(self, store: SqlStore, event_types: Mapping[str, EventType]) -> None:
        self.store = store
        self.event_types = event_types

    # ------------------------------------------------------------------ looking

    async def list(self, where: DeadLetterFilter = ALL, *, limit: int = 100, offset: int = 0) -> list[DeadLetterView]:
        """Dead letters, the newest first."""
        condition, parameters = _condition(self.store, where)
        sql = self.store.query("dead_letters")
        sql += f" AND {condition} ORDER BY d.updated_ms DESC, d.seq DESC LIMIT ? OFFSET ?"
        return [self._view(row) for row in await self.store.fetch_all(sql, (*parameters, limit, offset))]

    async def groups(self, where: DeadLetterFilter = ALL, *, limit: int = 100) -> Sequence[DeadLetterGroup]:
        """The same by failure, the most frequent first."""
        condition, parameters = _condition(self.store, where)
        rows = await self.store.fetch_all(
            self.store.query("part_dead_groups").format(
                none=NO_FINGERPRINT, letters=f"{self.store.query('dead_letters')} AND {condition}"
            ),
            (*parameters, limit),
        )
        return [
            DeadLetterGroup(
                store=self.store.name,
                group=_group(failure),
                label=_label(failure),
                count=count,
                handlers=tuple(sorted(msgspec.json.decode(handlers, type=list[str]))),
                first_ms=first_ms,
                last_ms=last_ms,
                example=example,
            )
            for failure, count, handlers, first_ms, last_ms, example in rows
        ]

    async def show(self, event_id: str, handler: str | None = None) -> DeadLetterDetail:
        """All that is known of one, archived or not. Raises NotFound."""
        row = await self._one(event_id, handler)
        event = (await self.store.fetch_all(f"{self.store.query('views')} WHERE seq = ?", (row["seq"],)))[0]
        past = await histories(self.store, [row["seq"]])
        return DeadLetterDetail(
            letter=self._view(row),
            event=view_of(self.store, event),
            label=_label(row["fingerprint"] or f"{NO_FINGERPRINT} {row['reason']}"),
            traceback=row["traceback"],
            history=tuple(past.get((row["handler_id"], row["seq"]), ())),
        )

    # ------------------------------------------------------------------ redriving

    async def plan(self, where: DeadLetterFilter = ALL) -> RedrivePlan:
        """What `redrive` would do (a dry run)."""
        condition, parameters = _condition(self.store, where)
        rows = await self.store.fetch_all(
            f"SELECT name, count(*) FROM ({self.store.query('dead_letters')} AND {condition}) AS found"  # noqa: S608
            " GROUP BY name ORDER BY name",
            parameters,
        )
        return RedrivePlan(
            store=self.store.name,
            count=sum(count for _, count in rows),
            handlers=dict(map(tuple, rows)),
            groups=tuple(await self.groups(where)),
            examples=tuple(await self.list(where, limit=_EXAMPLES)),
        )

    async def redrive_one(self, event_id: str, handler: str | None = None) -> DeadLetterView:
        """Revive one at once; returns it as it was. Raises NotFound, AntiphonError if it is archived."""
        row = await self._living(event_id, handler)
        now = self.store.clock.now_ms()
        async with self.store.unit() as unit:
            await _check_bound(unit, row)
            revived = await redrives.revive(
                unit, row["handler_id"], row["seq"], row["type"], self.store.store_ms(), now
            )
        if not revived:
            raise _changed(row)
        return self._view(row)

    async def redrive(
        self,
        where: DeadLetterFilter = ALL,
        *,
        canary: bool = False,
        rate: float | None = None,
        stop_share: float | None = None,
        stop_after: int = 5,
    ) -> RedriveJob:
        """Submit a redrive of all that match now; a running app carries it out.

        *rate* is per second (None: as fast as they are handled). *stop_share* ends it when that share of at
        least *stop_after* outcomes are failures, where a first failed attempt is one. Raises AntiphonError
        for options that make no sense.
        """
        if where.archived:
            raise AntiphonError("archived dead letters are not redriven", where="redrive")
        for name, right, rule in (
            ("rate", rate is None or rate > 0, "more than zero"),
            ("stop_share", stop_share is None or 0 < stop_share <= 1, "above 0 and at most 1"),
            ("stop_after", stop_after >= 1, "1 or more"),
        ):
            if not right:
                raise AntiphonError(f"{name} must be {rule}", where="redrive")
        condition, parameters = _condition(self.store, where)
        redrive_id = await redrives.submit(
            self.store,
            where,
            condition,
            parameters,
            canary=canary,
            rate=rate,
            stop_share=stop_share,
            stop_after=stop_after,
        )
        return await self.job(redrive_id)

    async def jobs(self, limit: int = 20) -> Sequence[RedriveJob]:
        """Redrives, the newest first."""
        rows = await self.store.fetch_all("SELECT * FROM antiphon_redrives ORDER BY id DESC LIMIT ?", (limit,))
        return [await redrives.job_view(self.store, row) for row in rows]

    async def job(self, job_id: str) -> RedriveJob:
        """One redrive, by its id or the unique beginning of it. Raises NotFound."""
        rows = await self.store.fetch_all(
            "SELECT * FROM antiphon_redrives WHERE id >= ? AND id < ? LIMIT 2", (job_id, end_of(job_id))
        )
        if len(rows) != 1:
            raise NotFound(
                f"{'several redrives begin' if rows else 'no redrive begins'} with {job_id!r}",
                where=self.store.name,
                mend="Name it by its id" if rows else "",
            )
        return await redrives.job_view(self.store, rows[0])

    async def cancel(self, job_id: str) -> RedriveJob:
        """End a redrive: what has not gone stays a dead letter. One that is over stays as it is."""
        job = await self.job(job_id)
        await redrives.cancel(self.store, job.id)
        return await self.job(job.id)

    # ------------------------------------------------------------------ editing and archiving

    async def edit(self, event_id: str, data: bytes, handler: str | None = None) -> LoggedView:
        """Publish corrected *data* (JSON text) as a new event, for this handler alone; archives the original.

        The new event has its own place in the log, so the handler gets it after what came before it; other
        handlers of the type never see it, and it is not sent to other services.
        Raises NotFound, and InvalidEvent with field and reason; then nothing has changed.
        """
        row = await self._living(event_id, handler)
        original = (await self.store.events_at([row["seq"]]))[row["seq"]].envelope
        edited = self._edited(original, data)
        now = self.store.clock.now_ms()
        async with self.store.unit() as unit:
            await _check_bound(unit, row)
            await unit.append_for(edited, INTERNAL, row["first_id"])
            await _archive(unit, row, f"edited as {edited.id}", now, "edited", edited.id)
        found = await self.store.fetch_all(f"{self.store.query('views')} WHERE id = ?", (edited.id,))
        return view_of(self.store, found[0])

    def _edited(self, original: Envelope, data: bytes) -> Envelope:
        """The event that takes the place of *original*. Raises InvalidEvent."""
        event_type = self.event_types.get(original.type)
        version, key = original.version, original.key
        if event_type is None:
            strict_json(data, type_name=original.type)
        else:
            try:
                event = event_type.decode(data, version)
            except UnknownVersion:
                event = event_type.decode(data, event_type.version)
            data, version, key = event_type.encode(event), event_type.version, event_type.key_of(event)
        return msgspec.structs.replace(
            original,
            id=self.store.clock.new_id(),
            version=version,
            key=key,
            time_ms=self.store.clock.now_ms(),
            data=data,
            causation_id=original.id,
        )

    async def archive_one(self, event_id: str, reason: str, handler: str | None = None) -> DeadLetterView:
        """Set one aside for good: it is not shown, not redriven, and holds back no retention.

        Returns it as it was. Raises NotFound, AntiphonError if it is archived already.
        """
        row = await self._living(event_id, handler)
        async with self.store.unit() as unit:
            await _archive(unit, row, reason, self.store.clock.now_ms())
        return self._view(row)

    async def archive(self, where: DeadLetterFilter, reason: str) -> int:
        """Archive all that match now; returns how many."""
        condition, parameters = _condition(self.store, where)
        rows = await self.store.fetch_all(
            f"SELECT handler_id, seq FROM ({self.store.query('dead_letters')} AND {condition}) AS found",  # noqa: S608
            parameters,
        )
        archived = 0
        for start in range(0, len(rows), _CHUNK):
            async with self.store.unit() as unit:
                now = self.store.clock.now_ms()
                for row in rows[start : start + _CHUNK]:
                    archived += await _set_archived(unit, row, reason, now, "archived", reason)
        return archived

    # ------------------------------------------------------------------ rows

    async def _one(self, event_id: str, handler: str | None) -> Any:
        """The row of one dead letter, archived or not. Raises NotFound."""
        full = await full_id(self.store, event_id)
        rows = await self.store.fetch_all(self.store.query("dead_letters_of"), (full,))
        chosen = [row for row in rows if handler in (None, row["name"])]
        if not chosen:
            who = f"for {handler}" if handler else "for any handler"
            raise NotFound(f"it is no dead letter {who}", where=full, mend="antiphon trace shows how it stands")
        if len(chosen) > 1:
            names = ", ".join(row["name"] for row in chosen)
            raise NotFound("it is dead for several handlers", where=full, mend=f"Name one of {names}")
        return chosen[0]

    async def _living(self, event_id: str, handler: str | None) -> Any:
        """The same, of one that is not archived. Raises NotFound, AntiphonError."""
        row = await self._one(event_id, handler)
        if row["archived"] is not None:
            raise AntiphonError(f"it is archived: {row['archived']}", where=f"{row['id']} for {row['name']}")
        return row

    def _view(self, row: Any) -> DeadLetterView:
        return DeadLetterView(
            store=self.store.name,
            event_id=row["id"],
            seq=row["seq"],
            type=row["type"],
            version=row["version"],
            key=row["key"],
            handler=row["name"],
            service=row["service"],
            status=Status(row["status"]),
            reason=row["reason"],
            error_type=row["error_type"],
            message=row["message"],
            group=_group(row["fingerprint"] or NO_FINGERPRINT),
            attempts=row["attempts"],
            time_ms=row["time_ms"],
            died_ms=row["updated_ms"],
            archived=row["archived"],
        )


async def _archive(
    unit: SqlUnit, row: Any, reason: str, now_ms: int, act: str = "archived", note: str | None = None
) -> None:
    """Archive one. Raises AntiphonError if it is dead no more."""
    if not await _set_archived(unit, row, reason, now_ms, act, note or reason):
        raise _changed(row)


async def _set_archived(unit: SqlUnit, row: Any, reason: str, now_ms: int, act: str, note: str) -> int:
    changed = await unit.execute(unit.query("archive"), (reason, row["handler_id"], row["seq"]))
    if changed:
        await unit.execute(unit.query("put_act"), (row["handler_id"], row["seq"], act, note, now_ms))
    return changed


async def _check_bound(unit: SqlUnit, row: Any) -> None:
    """Raise AntiphonError if the dead letter's handler would not take it any more."""
    bound = await unit.fetch_all(
        "SELECT 1 FROM antiphon_subscriptions WHERE handler_id = ? AND type = ?", (row["handler_id"], row["type"])
    )
    if not bound:
        raise AntiphonError(
            f"it does not handle {row['type']}, so nobody would take it up",
            where=row["name"],
            mend="Archive the dead letter, or bind the handler to that type again",
        )


def _changed(row: Any) -> AntiphonError:
    return AntiphonError(
        "somebody else has just redriven or archived it", where=f"{row['id']} for {row['name']}", mend="Look again"
    )


def _condition(store: SqlStore, where: DeadLetterFilter) -> Where:
    """*where* as a condition on the columns of the ``dead_letters`` block, and its parameters."""
    terms = [f"d.archived IS {'NOT ' if where.archived else ''}NULL"]
    parameters: list[Any] = []
    for sql, value in (
        ("h.name = ?", where.handler),
        ("l.type = ?", where.type),
        ("d.status = ?", where.status and where.status.value),
        ("d.updated_ms >= ?", where.since_ms),
        ("d.updated_ms <= ?", where.until_ms),
    ):
        if value is not None:
            terms.append(sql)
            parameters.append(value)
    if where.group == NO_FINGERPRINT:
        terms.append("d.fingerprint IS NULL")
    elif where.group is not None:
        terms.append("d.fingerprint >= ? AND d.fingerprint < ?")
        parameters += [where.group, end_of(where.group)]
    if where.text is not None:
        columns = ("d.message", "d.reason", "l.key", "l.id", store.query("part_data_text"))
        contains = store.query("part_contains")
        terms.append(f"({' OR '.join(contains.format(text=column) for column in columns)})")
        parameters += [where.text] * len(columns)
    return " AND ".join(terms), parameters


def _group(fingerprint: str) -> str:
    return fingerprint.partition(" ")[0]


def _label(fingerprint: str) -> str:
    return fingerprint.partition(" ")[2]
