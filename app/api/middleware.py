"""Around every request: an id and a log context, a body limit, and the gate that closes when the process stops. Pure ASGI."""

from __future__ import annotations

import asyncio
import random
import re
import time
from collections.abc import Mapping

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app import telemetry
from app.api.problems import problem_response, unforeseen
from app.errors import BodyTooLarge, Draining

_log = structlog.get_logger("innerloop.access")
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
_QUIET = {"/livez", "/readyz", "/metrics"}


class DrainGate:
    """Whether new work is admitted. Closed once, when the process is told to stop; it does not open again."""

    def __init__(self) -> None:
        self._closed = asyncio.Event()

    @property
    def is_closed(self) -> bool:
        """True from the moment the process was told to stop."""
        return self._closed.is_set()

    def close(self) -> None:
        """Refuses new work from now on; what is in flight goes on, and what waits only politely stops waiting."""
        self._closed.set()

    async def wait_closed(self) -> None:
        """Returns when the gate closes."""
        await self._closed.wait()


class RequestContext:
    """Gives each request its id, its log context, `Server-Timing`, its place in the metrics, and a problem instead of a crash."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        started_s, status = time.perf_counter(), 0
        request_id = _request_id(scope)
        timings: dict[str, float] = {}
        scope.setdefault("state", {}).update(request_id=request_id, timings_ms=timings)
        telemetry.count_active(1, scope["method"], scope["scheme"])

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                total = server_timing({**timings, "total": (time.perf_counter() - started_s) * 1e3})
                message["headers"] = [*message["headers"], (b"x-request-id", request_id.encode()), (b"server-timing", total.encode())]
            await send(message)

        bound = structlog.contextvars.bind_contextvars(request_id=request_id)
        try:
            await self.app(scope, receive, send_with_headers)
        except Exception as error:
            refusal = unforeseen(error)
            if status:
                raise
            await problem_response(refusal, scope)(scope, receive, send_with_headers)
        finally:
            _account(scope, status, time.perf_counter() - started_s)
            structlog.contextvars.reset_contextvars(**bound)
        return None


def server_timing(timings_ms: Mapping[str, float]) -> str:
    """The header's value: `decode;dur=0.41, device;dur=2.10`."""
    return ", ".join(f"{name};dur={value:.2f}" for name, value in timings_ms.items())


def find_header(scope: Scope, name: bytes) -> str:
    """The first value of a header, which is named in lower case; empty when it is not there. Starlette's takes five times as long."""
    for each, value in scope["headers"]:
        if each == name:
            return str(value, "latin-1")
    return ""


def _request_id(scope: Scope) -> str:
    given = find_header(scope, b"x-request-id")
    # Nobody may guess a secret from it, and asking the system for random bytes would give the interpreter away.
    return given if _REQUEST_ID.fullmatch(given) else f"{random.getrandbits(128):032x}"


def _account(scope: Scope, status: int, total_s: float) -> None:
    """The request in the metrics and, unless it only asks how the service is, in the log."""
    method, scheme, route = scope["method"], scope["scheme"], scope.get("route")
    telemetry.count_active(-1, method, scheme)
    telemetry.observe_request(total_s, method, status, getattr(route, "path_format", ""), scope["http_version"], scheme)
    if scope["path"] not in _QUIET:
        _log.info("request", method=method, path=scope["path"], status=status, total_ms=round(total_s * 1e3, 2))


class BodyLimit:
    """Refuses a body over the limit by its Content-Length, or, if it has none or lies, as soon as that many bytes came."""

    def __init__(self, app: ASGIApp, *, max_body_bytes: int) -> None:
        self.app = app
        self.max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        announced = find_header(scope, b"content-length")
        # isascii: int() also reads digits of other scripts. No body of more than 18 digits will ever come.
        if announced.isascii() and announced.isdigit() and (len(announced) > 18 or int(announced) > self.max_body_bytes):
            return await problem_response(self._refusal(), scope)(scope, receive, send)
        received = 0

        async def receive_counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self.max_body_bytes:
                raise self._refusal()
            return message

        return await self.app(scope, receive_counted, send)

    def _refusal(self) -> BodyTooLarge:
        return BodyTooLarge(f"expected a body of at most {self.max_body_bytes} bytes")


class Admission:
    """Refuses new work with 503 once the gate is closed. Reading stays possible until the server closes the connection."""

    def __init__(self, app: ASGIApp, *, gate: DrainGate) -> None:
        self.app = app
        self.gate = gate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and self.gate.is_closed and scope["method"] not in {"GET", "HEAD", "OPTIONS"}:
            refusal = Draining("this process is stopping and takes no new work: try again, another one will answer")
            return await problem_response(refusal, scope)(scope, receive, send)
        return await self.app(scope, receive, send)
