"""`/livez`, `/readyz`, `/metrics` and the front door: open without a key, except that the front door takes one."""

from __future__ import annotations

import asyncio

import structlog
from fastapi import APIRouter, Request, Response
from starlette.responses import RedirectResponse

from app import telemetry
from app.api.deps import COOKIE, Door, DoorDep, Ping
from app.api.problems import problems
from app.api.responses import json_response
from app.api.schemas import HealthJson
from app.errors import AppError, Draining, Issue, Unavailable

router = APIRouter(tags=["health"])

PING_TIMEOUT_S = 2.0
_COOKIE_MAX_AGE_S = 30 * 86400
_log = structlog.get_logger(__name__)


@router.get("/livez", summary="Is the process alive?", responses={200: {"model": HealthJson}})
async def livez() -> Response:
    """Touches nothing: an answer is the answer."""
    return json_response({"status": "alive", "checks": {}})


@router.get("/readyz", summary="Can it work?", responses={200: {"model": HealthJson}, **problems(503)})
async def readyz(door: DoorDep) -> Response:
    """Asks every part; a 503 names the ones that are down. False as soon as the process is told to stop."""
    if door.gate.is_closed:
        raise Draining("this process is stopping")
    faults = await ping_all(door)
    issues = [Issue(f"#/{name}", detail) for name, detail in faults.items() if detail]
    if issues:
        down = ", ".join(issue.pointer.removeprefix("#/") for issue in issues)
        raise Unavailable(f"not ready: {down} cannot be reached", code="not_ready", issues=issues)
    return json_response({"status": "ready", "checks": dict.fromkeys(faults, "ok")})


async def ping_all(door: Door) -> dict[str, str]:
    """What is wrong with each part, by its name; empty where nothing is."""
    names = list(door.pings)
    return dict(zip(names, await asyncio.gather(*(_fault_of(door.pings[name]) for name in names)), strict=True))


async def _fault_of(ping: Ping) -> str:
    try:
        async with asyncio.timeout(PING_TIMEOUT_S):
            await ping()
    except AppError as error:
        _log.warning("part_unreachable", code=error.code, detail=error.detail)
        return error.told
    except TimeoutError:
        return f"no answer within {PING_TIMEOUT_S:g} s"
    return ""


@router.get("/metrics", summary="Prometheus metrics", responses={200: {"content": {"text/plain": {}}}})
async def metrics() -> Response:
    """The process's metrics in Prometheus' text format."""
    return Response(telemetry.render_metrics(), media_type=telemetry.CONTENT_TYPE)


@router.get("/", include_in_schema=False)
async def enter(request: Request, door: DoorDep, key: str | None = None) -> Response:
    """The documentation; with `?key=`, the browser is logged in first and the key vanishes from its address bar."""
    response = RedirectResponse("/docs", status_code=303, headers={"Cache-Control": "no-store", "Referrer-Policy": "no-referrer"})
    if key is not None:
        await door.keys.authenticate(key)
        is_https = request.url.scheme == "https"
        response.set_cookie(COOKIE, key, max_age=_COOKIE_MAX_AGE_S, httponly=True, samesite="strict", secure=is_https)
    return response
