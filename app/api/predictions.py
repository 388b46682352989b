"""`/v1/tasks/{id}/predictions`: answers for new queries, and the answers that were kept."""

from __future__ import annotations

import re
from time import perf_counter
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from app import telemetry
from app.api import examples
from app.api.accept import choose_media
from app.api.arrivals import read_queries
from app.api.binary_answers import DOCUMENTED, JSON, MEDIA_TYPES, NPY, array_response, write_arrays
from app.api.deps import After, DoorDep, Limit, TaskId, UserDep, authenticate, check_task_id, get_door, require_user
from app.api.openapi import SECURED, files, json_answer, multipart_form, request_body
from app.api.problems import COMMON, on_app_error, on_disconnect, problems
from app.api.request_schemas import PredictionsRequest
from app.api.responses import json_response, page_response, prediction_set_json, write_predictions
from app.api.schemas import PredictionPage, PredictionSetJson
from app.domain import PredictionSet
from app.errors import AppError

router = APIRouter(prefix="/v1/tasks/{task_id}/predictions", tags=["predictions"])
_PLAIN_PATH = re.compile(r"/v1/tasks/([^/]+)/predictions")

_OTHER_MEDIA = {
    **multipart_form(["query"], query=files("Images to predict.")),
    NPY: {"schema": {"type": "string", "format": "binary"}},
}


@router.post(
    "",
    summary="Predict new queries",
    responses={
        200: json_answer(PredictionSetJson, "The answers, in the order of the inputs.", examples.ANSWERS, beside=DOCUMENTED),
        **problems(404, 406, 409, 413, 415, *COMMON),
    },
    openapi_extra=request_body(PredictionsRequest, **_OTHER_MEDIA),
)
async def predict(
    request: Request,
    door: DoorDep,
    caller: UserDep,
    task_id: TaskId,
    record: Annotated[bool, Query(description="Keep the answers; GET lists them.")] = False,
    explain: Annotated[bool, Query(description="Say which support examples drove each answer.")] = False,
) -> Response:
    """The label of each input, the probability of every label, and the initializer version that made the answers.

    `Accept: application/x-npy` is answered by one array of float32: (inputs, classes), the classes in sorted order of their names, or
    (inputs, outputs) for regression. `Accept: application/x-npz` has it as `values`, with `classes`, the names of its columns, and
    `unknown`, where they apply. Answers that are recorded or explained are JSON.
    """
    media = _choose_media(request, record=record, explain=explain)
    serving = await door.predictions.find_serving(caller, task_id)
    queries = await read_queries(request, door, serving.info.input)
    answers = await door.predictions.predict(serving, queries, record=record, explain=explain)
    return _respond(request, answers, media)


def _respond(request: Request, answers: PredictionSet, media: str) -> Response:
    since_s = perf_counter()
    written = write_predictions(answers.predictions) if media == JSON else write_arrays(answers.predictions, media)
    encode_ms = (perf_counter() - since_s) * 1e3
    timings_ms = request.state.timings_ms
    timings_ms |= answers.timings_ms
    timings_ms |= {"encode": round(encode_ms, 3), "total": round(timings_ms.pop("total") + encode_ms, 3)}
    telemetry.count_predictions(answers.initializer.name, len(answers.predictions), timings_ms)
    if media != JSON:
        return array_response(answers, written, media)
    return json_response(prediction_set_json(answers, written, timings_ms), headers={"Vary": "Accept"})


def _choose_media(request: Request, *, record: bool, explain: bool) -> str:
    if record or explain:
        return choose_media(request, (JSON,), because="answers that are recorded or explained are JSON")
    return choose_media(request, MEDIA_TYPES)


def find_plain_task(scope: Scope) -> str | None:
    """The id in the path of a prediction without parameters; None for every other request."""
    if scope["type"] != "http" or scope["method"] != "POST" or scope["query_string"]:
        return None
    match = _PLAIN_PATH.fullmatch(scope["path"])
    return match[1] if match else None


class PlainPredictions:
    """The same endpoint for what `find_plain_task` finds, which is most of all requests, as an ASGI application.

    FastAPI goes through seven middlewares, eleven routes, five dependencies and two parameters before it calls `predict`. What has
    parameters, and what the document says, is FastAPI's.
    """

    path_format = router.prefix
    """The name of the route in the metrics."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """`scope` has the application and `path_params`, as after routing."""
        scope["route"] = self
        request = Request(scope, receive)
        try:
            response = await _predict_plainly(request)
        except AppError as error:
            response = await on_app_error(request, error)
        except ClientDisconnect as error:
            response = await on_disconnect(request, error)
        await response(scope, receive, send)


async def _predict_plainly(request: Request) -> Response:
    door = await get_door(request)
    caller = await require_user(await authenticate(request, door))
    return await predict(request, door, caller, await check_task_id(request.path_params["task_id"]))


@router.get(
    "",
    summary="List kept predictions, oldest first",
    responses={200: {"model": PredictionPage}, **problems(404, *COMMON)},
    openapi_extra={"security": SECURED},
)
async def list_predictions(
    request: Request, door: DoorDep, caller: UserDep, task_id: TaskId, limit: Limit = 20, after: After = None
) -> Response:
    """Those of the query set that came with the task (`source` is `query`) and those that were recorded."""
    page = await door.predictions.list(caller, task_id, after=after, limit=limit)
    rows = [prediction_set_json(answers, write_predictions(answers.predictions), answers.timings_ms) for answers in page.rows]
    return page_response(request, page, rows)
