"""`/v1/initializers`: the meta-trained networks to start from."""

from __future__ import annotations

from fastapi import APIRouter, Response

from app.api.deps import DoorDep, InitializerPath, UserDep
from app.api.openapi import SECURED
from app.api.problems import COMMON, problems
from app.api.responses import initializer_json, json_response
from app.api.schemas import InitializerJson, InitializerList

router = APIRouter(prefix="/v1/initializers", tags=["initializers"])


@router.get(
    "", summary="List initializers", responses={200: {"model": InitializerList}, **problems(*COMMON)}, openapi_extra={"security": SECURED}
)
async def list_initializers(door: DoorDep, _caller: UserDep) -> Response:
    """The current version of every initializer, with what it reads and accepts."""
    return json_response({"data": [initializer_json(info) for info in await door.initializers.list()]})


@router.get(
    "/{name}",
    summary="Look at an initializer",
    responses={200: {"model": InitializerJson}, **problems(404, *COMMON)},
    openapi_extra={"security": SECURED},
)
async def get_initializer(door: DoorDep, _caller: UserDep, name: InitializerPath) -> Response:
    """Its card (recipe, data, accuracy), input, limits, current version and every stored version."""
    info = await door.initializers.get(name)
    return json_response({**initializer_json(info), "versions": await door.initializers.versions(name)})
