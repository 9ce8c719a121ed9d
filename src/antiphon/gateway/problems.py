"""Everything that goes wrong as RFC 9457 problem details: ``application/problem+json``."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from antiphon.errors import InvalidEvent, PayloadTooLarge, StoreError, StoreFull

log = logging.getLogger("antiphon.gateway")

MEDIA_TYPE = "application/problem+json"
_KINDS = "urn:antiphon:problem:"
_RETRY_LOCKED_S = 1
_RETRY_FULL_S = 30

#: How problems look, for OpenAPI; to be given as ``responses``.
DOCUMENTED: dict[int | str, dict[str, Any]] = {
    "default": {
        "description": "A problem (RFC 9457)",
        "content": {
            MEDIA_TYPE: {
                "schema": {
                    "title": "Problem",
                    "type": "object",
                    "required": ["type", "title", "status"],
                    "properties": {
                        "type": {"type": "string", "format": "uri-reference"},
                        "title": {"type": "string"},
                        "status": {"type": "integer"},
                        "detail": {"type": "string"},
                        "instance": {"type": "string", "format": "uri-reference"},
                        "field": {"type": "string", "description": "What is wrong, as a JSON path or a header"},
                        "reason": {"type": "string"},
                        "errors": {"type": "array", "items": {"type": "object"}},
                    },
                }
            }
        },
    }
}


def refusal(
    status: int, detail: str, *, kind: str = "", headers: Mapping[str, str] | None = None, **members: Any
) -> HTTPException:
    """An HTTPException that is answered as a problem of *kind* with further *members*."""
    named = {"type": _KINDS + kind} if kind else {}
    # Starlette types the detail as text, FastAPI's own subclass as anything; both keep it as it is.
    return HTTPException(status, {**named, "detail": detail, **members}, dict(headers or {}))  # type: ignore[arg-type]


def install(app: FastAPI) -> None:
    """Have *app* answer its exceptions as problems. What nobody foresaw is the `Guard`'s."""
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _invalid_request)
    app.add_exception_handler(InvalidEvent, _invalid_event)
    app.add_exception_handler(StoreError, _unavailable)


class Guard:
    """Answers what nobody foresaw with a plain 500. The log has the traceback, the client nothing of it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False

        async def watched(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except ClientDisconnect:
            log.debug("%s %s: the client left in the middle of its request", scope["method"], scope["path"])
        except Exception:
            log.exception("%s %s failed", scope["method"], scope["path"])
            if started:
                raise  # half an answer has gone out: only a broken connection tells the client
            await _answer(500, "The request failed here; it is in the log.")(scope, receive, send)


async def _http_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    return http_problem(error, request.url.path)


def http_problem(error: HTTPException, instance: str) -> JSONResponse:
    """The answer to an HTTPException. A mapping as its detail gives the problem's members."""
    detail: Any = error.detail
    if isinstance(detail, Mapping):
        members = {str(name): value for name, value in detail.items() if name != "status"}
        text = members.pop("detail", None)
        return _answer(error.status_code, text, instance, error.headers, **members)
    if not isinstance(detail, str):
        return _answer(error.status_code, None, instance, error.headers, errors=detail)
    text = None if detail == _phrase(error.status_code) else detail
    return _answer(error.status_code, text, instance, error.headers)


async def _invalid_request(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    errors = [_invalid_field(each) for each in error.errors()]
    first = errors[0] if errors else {"in": "request", "field": "$", "reason": "invalid"}
    detail = f"{first['in']} {first['field']}: {first['reason']}"
    return _answer(422, detail, request.url.path, kind="invalid-request", errors=errors)


def _invalid_field(found: Mapping[str, Any]) -> dict[str, str]:
    """One of Pydantic's errors in our words; what the client sent is not repeated."""
    where, *path = found["loc"]
    reason = str(found["msg"])
    if found["type"] == "json_invalid" and len(path) == 1 and isinstance(path[0], int):
        reason, path = f"not JSON: {found['ctx']['error']} at character {path[0]}", []
    steps = [f"[{step}]" if isinstance(step, int) else f".{step}" for step in path]
    field = "$" + "".join(steps) if where == "body" else "".join(steps).lstrip(".")
    return {"in": str(where), "field": field, "reason": reason}


async def _invalid_event(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, InvalidEvent)
    status, kind = (413, "too-large") if isinstance(error, PayloadTooLarge) else (422, "invalid-event")
    detail = f"{error.type_name} {error.field}: {error.reason}"
    return _answer(
        status, detail, request.url.path, kind=kind, event=error.type_name, field=error.field, reason=error.reason
    )


async def _unavailable(request: Request, error: Exception) -> JSONResponse:
    log.error("%s %s: %s", request.method, request.url.path, error)
    wait_s = _RETRY_FULL_S if isinstance(error, StoreFull) else _RETRY_LOCKED_S
    detail = "The database cannot be written at the moment; nothing was kept of this request."
    return _answer(503, detail, request.url.path, {"Retry-After": str(wait_s)}, kind="store-unavailable")


def _answer(
    status: int,
    detail: str | None,
    instance: str | None = None,
    headers: Mapping[str, str] | None = None,
    *,
    kind: str = "",
    **members: Any,
) -> JSONResponse:
    problem = {"type": _KINDS + kind if kind else "about:blank", "title": _phrase(status), "status": status}
    problem |= {"detail": detail} if detail else {}
    problem |= {"instance": instance} if instance else {}
    return JSONResponse({**problem, **members}, status, headers, MEDIA_TYPE)


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Error"
