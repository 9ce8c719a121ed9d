"""Whether the process lives, and whether it should get requests."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from fastapi import APIRouter

from antiphon.errors import StoreError
from antiphon.gateway.problems import DOCUMENTED, refusal
from antiphon.runtime.runtime import Runtime
from antiphon.store.base import SqlStore

_PATIENCE_S = 2.0


def health_routes(runtime: Runtime, is_draining: Callable[[], bool]) -> APIRouter:
    """The routes that a supervisor asks."""
    router = APIRouter(tags=["operation"], responses=DOCUMENTED)

    @router.get("/livez")
    async def live() -> dict[str, str]:
        """200: the event loop answers."""
        return {"status": "live"}

    @router.get("/readyz")
    async def ready() -> dict[str, str]:
        """200: the databases can be written and nothing drains. 503 says what is in the way."""
        if is_draining():
            raise _not_ready("draining", "The process is stopping.")
        for store in runtime.logs:
            if reason := await _unwritable(store):
                raise _not_ready(store.name, reason)
        return {"status": "ready"}

    return router


async def _unwritable(store: SqlStore) -> str | None:
    """Why *store* cannot be written; None if it can. A unit without a write takes its place and costs no fsync."""
    try:
        async with asyncio.timeout(_PATIENCE_S), store.unit():
            pass
    except TimeoutError:
        return "Another connection holds its write lock."
    except StoreError as error:
        return error.what
    late = "SELECT count(*) FROM antiphon_handlers WHERE owner = ? AND lease_until_ms < ?"
    if (await store.fetch_all(late, (store.owner, store.store_ms())))[0][0]:
        return "Its leases could not be renewed lately."
    return None


def _not_ready(what: str, reason: str) -> Exception:
    return refusal(503, f"Not ready: {what}: {reason}", kind="not-ready", headers={"Retry-After": "1"}, reason=reason)
