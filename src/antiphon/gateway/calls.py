"""One request to a route: its function, in a transaction of its service, and what it publishes."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from functools import cached_property
from typing import Annotated, Any

import msgspec
from fastapi import Depends
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from antiphon.errors import DeclarationError
from antiphon.gateway.idempotency import Keep
from antiphon.model.events import event_type_of
from antiphon.model.handlers import RouteSpec
from antiphon.runtime.blocking import SyncTransaction
from antiphon.runtime.invoke import SessionOf
from antiphon.runtime.runtime import Runtime
from antiphon.runtime.transaction import Transaction
from antiphon.wire import valid_traceparent

_SCOPE = "antiphon.call"


class Call:
    """A request being answered by a route that runs here."""

    def __init__(self, spec: RouteSpec, tx: Transaction, caller: Caller, root: str) -> None:
        self._spec = spec
        self._tx = tx
        self._caller = caller
        self._root = root

    async def run(self, given: dict[str, Any]) -> Any:
        """Call the route's function with what FastAPI has *given*; publish what it returns."""
        fn = self._spec.fn
        async with AsyncExitStack() as stack:
            session = None
            for name, kind in self._spec.injected:
                if kind == "session":
                    session = await stack.enter_async_context(self._caller.session_of(await self._tx.unit()))
                    given[name] = session
                elif kind == "sync_transaction":
                    given[name] = SyncTransaction(self._tx, asyncio.get_running_loop())
                else:
                    given[name] = self._tx
            if inspect.iscoroutinefunction(fn):
                result = await fn(**given)
            else:
                result = await run_in_threadpool(fn, **given)
            if session is not None:
                await session.commit()  # flushes; the transaction itself commits when the answer is ready
        return self._publish(result)

    def _publish(self, result: Any) -> Any:
        """*result*, or if it is made of events, the answer that tells of them."""
        events = result if isinstance(result, list | tuple) else [result]
        if not events or not all(map(_is_event, events)):
            return result
        first = len(self._tx.outgoing)
        keys: dict[str, Any] = {}
        for event in events:
            self._tx.publish(event)
            field = event_type_of(event).key_field
            if field is not None:
                keys[field] = msgspec.json.decode(self._tx.outgoing[-1][0].data).get(field)
        self.join()
        envelope = self._tx.outgoing[first][0]
        links = self._links(envelope.correlation_id)
        body = {**keys, "event_id": envelope.id, "correlation_id": envelope.correlation_id, **links}
        status = self._spec.options.get("status_code", 202)
        return JSONResponse(body, status, {"Location": links["events"]})

    def join(self) -> None:
        """Make all that this request begins one process, by giving it one correlation.

        What goes on with a process that was begun before, as an act on a workflow's run does, stays in that.
        """
        outgoing = self._tx.outgoing
        for number, (envelope, origin) in enumerate(outgoing):
            begins = envelope.correlation_id == envelope.id
            if begins and envelope.correlation_id != outgoing[0][0].correlation_id:
                joined = msgspec.structs.replace(envelope, correlation_id=outgoing[0][0].correlation_id)
                outgoing[number] = (joined, origin)

    def tell(self, response: Response, traceparent: str | None) -> None:
        """Say in the headers where what was published can be followed, and in which trace."""
        outgoing = self._tx.outgoing
        if outgoing:
            traceparent = outgoing[0][0].trace
            events = self._links(outgoing[0][0].correlation_id)["events"]
            response.headers.append("Link", f'<{events}>; rel="events"')
        if traceparent is not None:
            response.headers["traceparent"] = traceparent

    def _links(self, correlation_id: str) -> dict[str, str]:
        events = f"{self._root}/events/{correlation_id}"
        return {"events": events, "stream": f"{events}/stream"}


def _is_event(value: object) -> bool:
    try:
        event_type_of(value)
    except DeclarationError:
        return False
    return not isinstance(value, type)


async def _current(request: Request) -> Call:  # FastAPI would call a plain one in a thread
    call: Call = request.scope[_SCOPE]
    return call


CurrentCall = Annotated[Call, Depends(_current)]


class Caller:
    """Answers requests to routes of services that run here."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    @cached_property
    def session_of(self) -> SessionOf:
        """Makes sessions on a unit; SQLAlchemy is imported when the first route asks for one."""
        from antiphon.store.sessions import Sessions

        return Sessions()

    async def perform(
        self, spec: RouteSpec, request: Request, run: Callable[[Request], Awaitable[Response]], keep: Keep | None
    ) -> Response:
        """Answer *request* by FastAPI's *run*. What it writes and publishes, and what *keep* keeps, is durable
        on return.

        An exception, an HTTPException too, undoes all of it; an answer that is returned never does.
        """
        traceparent = valid_traceparent(request.headers.get("traceparent", ""))
        allowed = frozenset(event_type.name for event_type in spec.publishes) or None
        async with self._runtime.transaction(spec.service, traceparent=traceparent, allowed=allowed) as tx:
            root = request.scope.get("root_path", "")
            call = Call(spec, tx, self, root)
            request.scope[_SCOPE] = call
            response = await run(request)
            call.join()
            call.tell(response, traceparent)
            if keep is not None:
                await keep(tx, response)
        return response
