"""Keeps what came from outside and cannot be read: a dead letter with the very bytes."""

from __future__ import annotations

import hashlib

from antiphon.errors import InvalidEvent
from antiphon.model.delivery import Status
from antiphon.model.envelope import Envelope
from antiphon.policy.fingerprint import failure_of
from antiphon.ports import RECEIVED
from antiphon.store.base import SqlStore

#: The type under which such bytes lie in the log.
UNDECODABLE = "antiphon.undecodable"


async def quarantine(store: SqlStore, service: str, raw: bytes, error: InvalidEvent) -> str:
    """Keep *raw*, refused by *error*, as a dead letter of ``<service>.inlet``; returns its event's id.

    The id follows from the bytes, so what is sent again and again is kept once. Raises StoreError.
    """
    now = store.clock.now_ms()
    event_id = f"undecodable-{hashlib.blake2b(raw, digest_size=16).hexdigest()}"
    envelope = Envelope(event_id, UNDECODABLE, 1, None, service, now, raw, event_id)
    failure = failure_of(error)
    async with store.unit() as unit:
        if await unit.fetch_all("SELECT 1 FROM antiphon_log WHERE id = ?", (event_id,)):
            return event_id
        await unit.append([(envelope, RECEIVED)])
        await unit.execute(unit.query("put_handler"), (f"{service}.inlet", service, await store.head(), now))
        await unit.execute(
            "INSERT INTO antiphon_deliveries (handler_id, seq, status, reason, error_type, message, traceback,"
            " fingerprint, updated_ms) SELECT h.id, l.seq, ?, ?, ?, ?, ?, ?, ?"
            " FROM antiphon_handlers AS h JOIN antiphon_log AS l ON l.id = ? WHERE h.name = ?"
            " ON CONFLICT (handler_id, seq) DO NOTHING",
            (
                Status.ERROR.value,
                f"{error.field}: {error.reason}",
                failure.error_type,
                failure.message,
                failure.traceback,
                failure.fingerprint,
                now,
                event_id,
                f"{service}.inlet",
            ),
        )
    return event_id
