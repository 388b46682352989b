"""`/v1/admin`: swap meta-weights under load, and hand out keys. Needs the scope `admin`."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from app.api.bodies import read_json
from app.api.deps import AdminDep, DoorDep, InitializerPath, KeyId
from app.api.openapi import SECURED, request_body
from app.api.problems import COMMON, problems
from app.api.request_schemas import KeyRequest, ReloadRequest
from app.api.responses import json_response, key_json, reload_json
from app.api.schemas import KeyList, NewKeyJson, ReloadJson

router = APIRouter(prefix="/v1/admin", tags=["admin"])


@router.post(
    "/initializers/{name}/reload",
    summary="Take an initializer's files as its next version",
    responses={200: {"model": ReloadJson}, **problems(404, 409, 413, 415, *COMMON)},
    openapi_extra=request_body(ReloadRequest, required=False),
)
async def reload_initializer(request: Request, door: DoorDep, _caller: AdminDep, name: InitializerPath) -> Response:
    """Loads the new version beside the old, verifies it, swaps, and drains the old: no request fails meanwhile."""
    body = await read_json(request, ReloadRequest, default=ReloadRequest())
    return json_response(reload_json(await door.initializers.reload(name, readapt=body.readapt)))


@router.post(
    "/keys",
    status_code=201,
    summary="Make an API key",
    responses={201: {"model": NewKeyJson}, **problems(413, 415, *COMMON)},
    openapi_extra=request_body(KeyRequest),
)
async def create_key(request: Request, door: DoorDep, _caller: AdminDep) -> Response:
    """The answer shows the key for the only time. Each key's tasks are invisible to the others."""
    body = await read_json(request, KeyRequest)
    text = await door.keys.create(body.name, body.scopes)
    return json_response({"key": text, "name": body.name, "scopes": sorted(set(body.scopes))}, 201, {"Cache-Control": "no-store"})


@router.get("/keys", summary="List API keys", responses={200: {"model": KeyList}, **problems(*COMMON)}, openapi_extra={"security": SECURED})
async def list_keys(door: DoorDep, _caller: AdminDep) -> Response:
    """Every key without its secret, oldest first."""
    return json_response({"data": [key_json(key) for key in await door.keys.list()]})


@router.delete(
    "/keys/{key_id}",
    status_code=204,
    summary="Revoke an API key",
    responses=problems(404, *COMMON),
    openapi_extra={"security": SECURED},
)
async def revoke_key(door: DoorDep, _caller: AdminDep, key_id: KeyId) -> Response:
    """The key stops working here at once, and in other processes within seconds."""
    await door.keys.revoke(key_id)
    return Response(status_code=204)
