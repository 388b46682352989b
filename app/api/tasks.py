"""`/v1/tasks`: a few labelled examples in, a task of your own out."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from app.api import examples
from app.api.arrivals import read_new_task
from app.api.deps import After, Door, DoorDep, Limit, TaskId, UserDep
from app.api.openapi import SECURED, files, json_answer, multipart_form, request_body
from app.api.prefer import FINISHED, parse_prefer, wait_for_task
from app.api.problems import COMMON, problems
from app.api.request_schemas import TaskRequest
from app.api.responses import json_response, page_response, progress_headers, tagged_response, task_json
from app.api.schemas import TaskJson, TaskPage
from app.domain import Caller, Status, Task

router = APIRouter(prefix="/v1/tasks", tags=["tasks"])

PREFER_PARAMETER: dict[str, Any] = {
    "name": "Prefer",
    "in": "header",
    "required": False,
    "schema": {"type": "string"},
    "example": "wait=10",
    "description": "`wait=N`: answer with the finished task if it is done within N seconds (RFC 7240).",
}
_TEXT = {"type": "string"}
_UPLOAD = multipart_form(
    ["initializer", "support"],
    initializer=_TEXT,
    support=files("Images named `<class>/<file>`; or use fields `support[<class>]`."),
    query=files("Images to predict."),
    name=_TEXT,
    options={**_TEXT, "description": "JSON, as in the JSON body."},
    metadata={**_TEXT, "description": "JSON, as in the JSON body."},
    ttl_s={"type": "integer"},
)


@router.post(
    "",
    status_code=202,
    summary="Adapt an initializer to a support set",
    responses={
        202: {"model": TaskJson, "description": "Accepted: look at Location after Retry-After."},
        201: json_answer(TaskJson, "Made, and finished within the wait that was asked for.", examples.TASKS),
        200: {"model": TaskJson, "description": "An equal task exists: this is it, and nothing was adapted."},
        **problems(404, 413, 415, *COMMON),
    },
    openapi_extra={**request_body(TaskRequest, examples=examples.TASK_REQUESTS, **_UPLOAD), "parameters": [PREFER_PARAMETER]},
)
async def create_task(request: Request, door: DoorDep, caller: UserDep) -> Response:
    """Stores the support set, queues its adaptation, and answers at once, or after the wait asked for with `Prefer: wait=N`."""
    new = await read_new_task(request, door)
    task, is_new = await door.tasks.create(caller, new)
    return await answer_with_task(request, door, caller, task, status_if_done=201 if is_new else 200, status_if_not=202 if is_new else 200)


@router.get(
    "",
    summary="List tasks, newest first",
    responses={200: {"model": TaskPage}, **problems(*COMMON)},
    openapi_extra={"security": SECURED},
)
async def list_tasks(
    request: Request,
    door: DoorDep,
    caller: UserDep,
    limit: Limit = 20,
    after: After = None,
    status: Annotated[Status | None, Query(description="Only tasks whose latest adaptation stands so.")] = None,
    name: Annotated[str | None, Query(max_length=200, pattern=r"^[^\x00]*$")] = None,
) -> Response:
    """The caller's own tasks; those of other keys are invisible."""
    page = await door.tasks.list(caller, after=after, limit=limit, status=status, name=name)
    return page_response(request, page, [task_json(task) for task in page.rows])


@router.get(
    "/{task_id}",
    summary="Look at a task",
    responses={
        200: json_answer(TaskJson, "The task as it stands.", examples.TASKS),
        304: {"description": "Not changed since the ETag in If-None-Match."},
        **problems(404, *COMMON),
    },
    openapi_extra={"security": SECURED},
)
async def get_task(request: Request, door: DoorDep, caller: UserDep, task_id: TaskId) -> Response:
    """Status, support summary, loss and accuracy per inner step, timings per phase, and the version that adapted it."""
    task = await door.tasks.get(caller, task_id)
    return tagged_response(request, task_json(task), progress_headers(task))


@router.delete(
    "/{task_id}",
    status_code=204,
    summary="Forget a task",
    responses=problems(404, *COMMON),
    openapi_extra={"security": SECURED},
)
async def delete_task(door: DoorDep, caller: UserDep, task_id: TaskId) -> Response:
    """Removes the task with its support set, adapted weights and predictions."""
    await door.tasks.delete(caller, task_id)
    return Response(status_code=204)


async def answer_with_task(
    request: Request, door: Door, caller: Caller, task: Task, *, status_if_done: int, status_if_not: int
) -> Response:
    """The task, after the wait that was asked for, with the headers of RFC 7240 and a Location."""
    preference = parse_prefer(request.headers.getlist("prefer"), door.settings.max_wait_s)
    task = await wait_for_task(door, caller, task, preference.wait_s)
    headers = {"Location": f"/v1/tasks/{task.id}", "Vary": "Prefer", **progress_headers(task)}
    if preference.applied:
        headers["Preference-Applied"] = preference.applied
    is_done = task.latest.status in FINISHED and preference.wait_s is not None
    return json_response(task_json(task), status_if_done if is_done else status_if_not, headers)
