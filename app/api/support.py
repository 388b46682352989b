"""`/v1/tasks/{id}/support`: more examples, fewer examples, other classes. The old revision answers until the new one is ready."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from app.api.arrivals import read_revision
from app.api.deps import DoorDep, TaskId, UserDep
from app.api.openapi import files, multipart_form, request_body
from app.api.problems import COMMON, problems
from app.api.request_schemas import SupportRequest
from app.api.schemas import TaskJson
from app.api.tasks import PREFER_PARAMETER, answer_with_task

router = APIRouter(prefix="/v1/tasks/{task_id}/support", tags=["tasks"])

_TEXT = {"type": "string", "description": "JSON, as in the JSON body."}
_UPLOAD = multipart_form([], add=files("Images named `<class>/<file>`; or use fields `add[<class>]`."), remove=_TEXT, options=_TEXT)


@router.post(
    "",
    status_code=202,
    summary="Add and remove examples and classes",
    responses={
        202: {"model": TaskJson, "description": "Accepted: a new revision is queued."},
        200: {"model": TaskJson, "description": "The new revision is finished, within the wait that was asked for."},
        **problems(404, 413, 415, *COMMON),
    },
    openapi_extra={**request_body(SupportRequest, **_UPLOAD), "parameters": [PREFER_PARAMETER]},
)
async def revise_support(request: Request, door: DoorDep, caller: UserDep, task_id: TaskId) -> Response:
    """Makes a new revision of the support set and adapts to it, on the initializer's current version."""
    task = await door.tasks.get(caller, task_id)
    add, remove, options = await read_revision(request, door, await door.tasks.find_offer(task))
    task = await door.tasks.revise(caller, task_id, add=add, remove=remove, options=options)
    return await answer_with_task(request, door, caller, task, status_if_done=200, status_if_not=202)
