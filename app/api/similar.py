"""`/v1/tasks/{id}/similar`: which of your tasks are alike, and in what."""

from __future__ import annotations

from fastapi import APIRouter, Response

from app.api.deps import DoorDep, Limit, TaskId, UserDep
from app.api.openapi import SECURED
from app.api.problems import COMMON, problems
from app.api.responses import json_response, neighbourhood_json
from app.api.schemas import NeighbourhoodJson

router = APIRouter(prefix="/v1/tasks/{task_id}/similar", tags=["tasks"])


@router.get(
    "",
    summary="Find similar tasks",
    responses={200: {"model": NeighbourhoodJson}, **problems(404, 409, *COMMON)},
    openapi_extra={"security": SECURED},
)
async def find_similar(door: DoorDep, caller: UserDep, task_id: TaskId, limit: Limit = 10) -> Response:
    """Your own ready tasks of the same initializer version, nearest first; at most the 10,000 newest are compared.

    The distance says how far the support sets lie apart in the initializer's features, whatever their labels are.
    """
    return json_response(neighbourhood_json(await door.similarity.similar(caller, task_id, limit=limit)))
