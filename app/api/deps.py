"""What endpoints ask for by name: the services, who calls, ids, and pages.

All of it is `async`, also what waits for nothing: FastAPI calls a plain function in a thread, half a millisecond for each.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, cast

from fastapi import Depends, Path, Query, Request, params
from fastapi.dependencies.utils import get_flat_params

from app.api.bodies import MAX_ISSUES, escape
from app.api.middleware import DrainGate, find_header
from app.api.problems import InvalidParameter
from app.domain import Caller
from app.errors import Forbidden, Issue, NotFound, Unauthenticated
from app.services.initializers import InitializerService
from app.services.keys import KeyService
from app.services.predictions import PredictionService
from app.services.similarity import SimilarityService
from app.services.tasks import TaskService
from app.settings import Settings

COOKIE = "innerloop_key"
MAX_PAGE = 100

# No id of ours has other characters, and NUL or a slash must not reach the database or a path.
_ID_PATTERN = r"^[A-Za-z0-9_-]{1,128}$"
_ID = re.compile(_ID_PATTERN)


Ping = Callable[[], Awaitable[None]]
"""Asks a part whether it is there; raises Unavailable when not."""


@dataclass(frozen=True)
class Door:
    """What the HTTP door stands on; the root builds it and puts it into `app.state.door`."""

    settings: Settings
    tasks: TaskService
    predictions: PredictionService
    initializers: InitializerService
    keys: KeyService
    similarity: SimilarityService
    pings: Mapping[str, Ping]
    gate: DrainGate


async def get_door(request: Request) -> Door:
    """The door of this process."""
    return cast(Door, request.app.state.door)


DoorDep = Annotated[Door, Depends(get_door)]


async def authenticate(request: Request, door: DoorDep) -> Caller:
    """Who calls, by `Authorization: Bearer`, `X-API-Key` or the cookie, in this order. Raises Unauthenticated, InvalidParameter.

    Every endpoint behind a key asks this first, so unknown query parameters are refused here, for all of them, and of callers who are
    known. Where no key is asked for they are ignored: probes, scrapers and links bring parameters of their own.
    """
    text = find_key(request)
    if not text:
        raise Unauthenticated("expected an API key: Authorization: Bearer il_..., or X-API-Key: il_...")
    caller = await door.keys.authenticate(text)
    if request.scope["query_string"]:  # most requests have none: a dependency of its own would cost them, too
        refuse_unknown_parameters(request)
    return caller


def refuse_unknown_parameters(request: Request) -> None:
    """Raises InvalidParameter, which points at each query parameter that the endpoint does not have."""
    known = find_parameters(request)
    detail = f"unknown; expected {', '.join(known) or 'no query parameters'}"
    issues = [Issue(f"#/query/{escape(name)}", detail) for name in request.query_params if name not in known][:MAX_ISSUES]
    if issues:
        raise InvalidParameter(f"{issues[0].pointer}: {detail}", issues=issues)


def find_parameters(request: Request) -> list[str]:
    """The query parameters of the endpoint, as the document has them."""
    fields = get_flat_params(request.scope["route"].dependant)
    return sorted(field.alias for field in fields if isinstance(field.field_info, params.Query))


def find_key(request: Request) -> str:
    """The API key a request carries, or nothing."""
    scheme, _, credentials = find_header(request.scope, b"authorization").partition(" ")
    if scheme.lower() == "bearer" and credentials.strip():
        return credentials.strip()
    return find_header(request.scope, b"x-api-key") or request.cookies.get(COOKIE) or ""


CallerDep = Annotated[Caller, Depends(authenticate)]


async def require_user(caller: CallerDep) -> Caller:
    """The caller, whose key may use tasks. Raises Forbidden."""
    if not caller.scopes & {"user", "admin"}:
        raise Forbidden("this key may not use tasks: it lacks the scope `user`")
    return caller


async def require_admin(caller: CallerDep) -> Caller:
    """The caller, whose key may administer. Raises Forbidden."""
    if "admin" not in caller.scopes:
        raise Forbidden("this needs a key with the scope `admin`")
    return caller


UserDep = Annotated[Caller, Depends(require_user)]
AdminDep = Annotated[Caller, Depends(require_admin)]


async def check_task_id(task_id: Annotated[str, Path(description="As returned by POST /v1/tasks.")]) -> str:
    """The id in the path. What cannot be an id is a task that does not exist."""
    if not _ID.match(task_id):
        raise NotFound("there is no such task", code="task_not_found")
    return task_id


async def check_initializer_name(name: Annotated[str, Path(description="Name of an initializer.", examples=["omniglot-protonet"])]) -> str:
    """The name in the path, likewise. It also becomes the name of a folder, so dots alone and slashes end here."""
    if not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}", name):
        raise NotFound("there is no such initializer", code="initializer_not_found")
    return name


async def check_key_id(key_id: str) -> str:
    """The id in the path, likewise."""
    if not _ID.match(key_id):
        raise NotFound("there is no such key", code="key_not_found")
    return key_id


TaskId = Annotated[str, Depends(check_task_id)]
InitializerPath = Annotated[str, Depends(check_initializer_name)]
KeyId = Annotated[str, Depends(check_key_id)]
After = Annotated[str | None, Query(pattern=_ID_PATTERN, description="`last_id` of the page before.")]
Limit = Annotated[int, Query(ge=1, le=MAX_PAGE, description="Rows on a page.")]
