"""`/v1/tasks/{id}/predictions`: answers for new queries, and the answers that were kept."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from starlette.routing import Match, Route
from starlette.types import Scope

from app.api import examples
from app.api.arrivals import NPY, read_queries
from app.api.deps import After, DoorDep, Limit, TaskId, UserDep, authenticate, check_task_id, get_door, require_user
from app.api.openapi import SECURED, files, json_answer, multipart_form, request_body
from app.api.problems import COMMON, problems
from app.api.request_schemas import PredictionsRequest
from app.api.responses import json_response, page_response, prediction_set_json
from app.api.schemas import PredictionPage, PredictionSetJson

router = APIRouter(prefix="/v1/tasks/{task_id}/predictions", tags=["predictions"])

_OTHER_MEDIA = {
    **multipart_form(["query"], query=files("Images to predict.")),
    NPY: {"schema": {"type": "string", "format": "binary"}},
}


@router.post(
    "",
    summary="Predict new queries",
    responses={
        200: json_answer(PredictionSetJson, "The answers, in the order of the inputs.", examples.ANSWERS),
        **problems(404, 409, 413, 415, 422, *COMMON),
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
    """The label of each input, the probability of every label, and the initializer version that made the answers."""
    serving = await door.predictions.find_serving(caller, task_id)
    queries = await read_queries(request, door, serving.info.input)
    answers = await door.predictions.predict(serving, queries, record=record, explain=explain)
    decode_timings = dict(request.state.timings_ms)
    request.state.timings_ms.update(answers.timings_ms)
    return json_response(prediction_set_json(answers, decode_timings))


class PlainPredictions(Route):
    """The same endpoint for a POST without parameters, which is most of them.

    FastAPI goes round eleven routes, five dependencies and two parameters before it calls `predict`: 0.2 ms of the event loop. What
    has parameters, and what the document says, is FastAPI's.
    """

    def __init__(self) -> None:
        super().__init__(f"{router.prefix}", _predict_plainly, methods=["POST"])

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Another method or a query string is no match at all, not a partial one: FastAPI's route answers it."""
        if scope["type"] != "http" or scope["method"] != "POST" or scope["query_string"]:
            return Match.NONE, {}
        match, found = super().matches(scope)
        return match, {**found, "route": self}


async def _predict_plainly(request: Request) -> Response:
    door = await get_door(request)
    caller = await require_user(await authenticate(request, door))
    return await predict(request, door, caller, await check_task_id(request.path_params["task_id"]))


@router.get(
    "",
    summary="List kept predictions, oldest first",
    responses={200: {"model": PredictionPage}, **problems(404, 422, *COMMON)},
    openapi_extra={"security": SECURED},
)
async def list_predictions(
    request: Request, door: DoorDep, caller: UserDep, task_id: TaskId, limit: Limit = 20, after: After = None
) -> Response:
    """Those of the query set that came with the task (`source` is `query`) and those that were recorded."""
    page = await door.predictions.list(caller, task_id, after=after, limit=limit)
    return page_response(request, page, [prediction_set_json(answers) for answers in page.rows])
