"""Every error becomes one body: RFC 9457 problem details with a stable code, pointers and the trace id.

Whatever is raised ends here: the tree of `app.errors`, unknown routes and methods, parameters that do not fit, and what nobody
foresaw, which is logged with its traceback and told to the client by its trace id alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import orjson
import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from app.api.bodies import MAX_ISSUES, pointer_to
from app.api.schemas import Problem
from app.errors import AppError, BodyTooLarge, InvalidInput, Issue, NotAcceptable, NotFound, Unauthenticated

MEDIA_TYPE = "application/problem+json"
_log = structlog.get_logger(__name__)


class MethodNotAllowed(AppError):
    """A method the route does not have."""

    code, status, title = "method_not_allowed", 405, "Method not allowed"


class InvalidParameter(InvalidInput):
    """A query parameter that does not fit or does not exist; the pointer names it."""

    code, title = "invalid_parameter", "Invalid parameter"


class HttpFault(AppError):
    """Any other refusal of the framework."""

    code, status, title = "http_error", 400, "Bad request"


def problem_response(error: AppError, scope: Mapping[str, Any], *, headers: Mapping[str, str] | None = None) -> Response:
    """The response for an error. `scope` is the ASGI scope of the request."""
    body = {
        "type": f"urn:innerloop:problem:{error.code}",
        "title": error.title,
        "status": error.status,
        "detail": error.told,
        "instance": scope.get("path", ""),
        "code": error.code,
        "errors": [{"pointer": issue.pointer, "detail": issue.detail} for issue in error.issues],
        "trace_id": scope.get("state", {}).get("request_id", ""),
    }
    return Response(orjson.dumps(body), error.status, {**_headers_of(error), **(headers or {})}, MEDIA_TYPE)


def _headers_of(error: AppError) -> dict[str, str]:
    headers = {"Cache-Control": "no-store"}
    if error.retry_after_s is not None:
        headers["Retry-After"] = str(error.retry_after_s)
    if isinstance(error, Unauthenticated):
        headers["WWW-Authenticate"] = 'Bearer realm="innerloop"'
    if isinstance(error, NotAcceptable):
        headers["Vary"] = "Accept"
    if isinstance(error, BodyTooLarge):
        # The rest of the body is not wanted, so the connection cannot be used again.
        headers["Connection"] = "close"
    return headers


def unforeseen(error: BaseException) -> AppError:
    """What the client is told about an exception nobody foresaw: nothing but that it happened. The log has the rest."""
    _log.error("unhandled_exception", exc_info=error)
    return AppError("An unexpected error occurred. The log has it under this trace id.")


async def on_app_error(request: Request, error: Exception) -> Response:
    """The problem an error of ours is."""
    assert isinstance(error, AppError)
    if error.status >= 500:
        _log.warning("request_refused", code=error.code, detail=error.detail)
    return problem_response(error, request.scope)


async def _on_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == 404:
        return problem_response(NotFound(f"there is nothing at {request.url.path[:200]}"), request.scope)
    if error.status_code == 405:
        refusal: AppError = MethodNotAllowed(f"{request.method[:20]} is not possible here")
        return problem_response(refusal, request.scope, headers=error.headers)
    refusal = HttpFault(str(error.detail))
    refusal.status = error.status_code
    return problem_response(refusal, request.scope, headers=error.headers)


async def _on_invalid_parameters(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    issues = [Issue(pointer_to(fault["loc"]), fault["msg"]) for fault in error.errors()][:MAX_ISSUES]
    return problem_response(InvalidParameter(f"{issues[0].pointer}: {issues[0].detail}", issues=issues), request.scope)


async def on_disconnect(request: Request, error: Exception) -> Response:
    """No answer: the client has left."""
    # Nobody is there to read it; 499 is what access logs call this since nginx.
    return Response(status_code=499)


def install_problem_handlers(app: FastAPI) -> None:
    """Registers the handlers; exceptions that none of these catches end in `middleware.RequestContext`."""
    app.add_exception_handler(AppError, on_app_error)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(RequestValidationError, _on_invalid_parameters)
    app.add_exception_handler(ClientDisconnect, on_disconnect)


_TITLES: dict[int, str] = {
    401: "No API key, or one that is not known: `unauthenticated`",
    403: "The key lacks the scope: `forbidden`",
    404: "Not there, or another tenant's: `not_found`, `task_not_found`, `initializer_not_found`, `key_not_found`",
    405: "`method_not_allowed`",
    406: "Accept allows none of the media types there are: `not_acceptable`",
    409: "Does not fit the present state: `task_not_ready`, `task_not_embedded`, `adaptation_failed`, `initializer_rejected`; "
    "or is beyond the initializer's learner: `not_supported`",
    413: "`body_too_large`",
    415: "`unsupported_media_type`",
    422: "A fault in the request; `errors` points at it: `invalid_body`, `invalid_parameter`, `invalid_support`, `invalid_query`, "
    "`invalid_options`, `undecodable_input`",
    500: "`internal_error`",
    503: "Try again after Retry-After: `overloaded`, `draining`, `database_unavailable`, `redis_unavailable`, `not_ready`",
}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """OpenAPI responses for these statuses, with their codes."""
    schema = {"$ref": f"#/components/schemas/{Problem.__name__}"}
    return {status: {"description": _TITLES[status], "content": {MEDIA_TYPE: {"schema": schema}}} for status in statuses}


COMMON: Sequence[int] = (401, 403, 422, 500, 503)
"""What every endpoint behind a key can answer."""
