"""The values of the domain as JSON, and the headers that go with them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any
from urllib.parse import urlencode

import orjson
from fastapi import Request, Response

from app.api.measure import MEASURE
from app.api.prefer import FINISHED
from app.domain import Adaptation, InitializerInfo, InitializerRef, Page, Prediction, PredictionSet, Task, WarmStart
from app.services.answer_table import AnswerTable
from app.services.requests import KeyInfo, Neighbour, Neighbourhood, ReloadOutcome

RETRY_AFTER_MS = 200
"""An adaptation takes tens of milliseconds; the header, in whole seconds, cannot say so."""

Json = dict[str, Any]


def json_response(body: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """`body` in JSON by orjson: numbers that are not finite become null."""
    return Response(orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY), status, headers, "application/json")


def tagged_response(request: Request, body: Json, headers: Mapping[str, str]) -> Response:
    """The body with its ETag, or 304 when the client has it already."""
    content = orjson.dumps(body)
    tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    headers = {**headers, "ETag": tag, "Cache-Control": "private, no-cache"}
    known = [part.strip().removeprefix("W/") for part in request.headers.get("if-none-match", "").split(",")]
    if tag in known or "*" in known:
        return Response(status_code=304, headers=headers)
    return Response(content, 200, headers, "application/json")


def progress_headers(task: Task) -> dict[str, str]:
    """Retry-After while there is something to wait for."""
    return {} if task.latest.status in FINISHED else {"Retry-After": "1"}


def task_json(task: Task) -> Json:
    """A task as `schemas.TaskJson`."""
    latest, url = task.latest, f"/v1/tasks/{task.id}"
    body: Json = {
        "id": task.id,
        "status": latest.status.value,
        "name": task.name,
        "metadata": task.metadata,
        "initializer": ref_json(latest.initializer),
        "revision": latest.revision,
        "serving": {"revision": task.serving.revision, "initializer": ref_json(task.serving.initializer)} if task.serving else None,
        "options": {"steps": latest.options.steps, "warm_start": latest.options.warm_start},
        "support": {"n_support": latest.n_support, "classes": dict(latest.class_counts)},
        "has_query": task.has_query,
        **_outcome_json(latest),
        "created_at": task.created_at,
        "started_at": latest.started_at,
        "finished_at": latest.finished_at,
        "expires_at": task.expires_at,
        "links": {"self": url, "predictions": f"{url}/predictions", "support": f"{url}/support", "similar": f"{url}/similar"},
    }
    return body if latest.status in FINISHED else {**body, "retry_after_ms": RETRY_AFTER_MS}


def _outcome_json(latest: Adaptation) -> Json:
    return {
        "loss": list(latest.loss),
        "accuracy": list(latest.accuracy),
        "timings_ms": dict(latest.timings_ms),
        "warm_start": _warm_start_json(latest.warm_start),
        "selection": dict(latest.selection) if latest.selection is not None else None,
        "attempts": latest.attempts,
        "error": {"code": latest.error_code, "detail": latest.error_detail or ""} if latest.error_code else None,
    }


def _warm_start_json(report: WarmStart | None) -> Json | None:
    if report is None:
        return None
    held_out = {"cold": report.cold, "warm": report.warm} if report.cold is not None or report.warm is not None else None
    return {"kept": report.kept, "code": report.code, "reason": report.reason, "from_task": report.from_task, "held_out": held_out}


def ref_json(ref: InitializerRef) -> Json:
    """The version that made an answer."""
    return {"name": ref.name, "version": ref.version}


def prediction_set_json(answers: PredictionSet, written: bytes, timings_ms: Mapping[str, float]) -> Json:
    """Answers as `schemas.PredictionSetJson`; their predictions are `written` before, so that the timings can say how long that took."""
    return {
        "id": answers.id,
        "task_id": answers.task_id,
        "source": answers.source,
        "revision": answers.revision,
        "initializer": ref_json(answers.initializer),
        "predictions": orjson.Fragment(written),
        "timings_ms": dict(timings_ms),
        "created_at": answers.created_at,
    }


def write_predictions(predictions: Sequence[Prediction]) -> bytes:
    """The JSON of a list of `schemas.PredictionJson`."""
    return orjson.dumps(_predictions_json(predictions))


def _predictions_json(predictions: Sequence[Prediction]) -> list[Json]:
    """Straight from the table: 1,000 answers over 20 classes take 2.1 ms, by way of `Prediction` 2.9 (Intel Xeon, 2026-11-21)."""
    if not isinstance(predictions, AnswerTable):
        return [_prediction_json(prediction) for prediction in predictions]
    names = predictions.classes
    if not names:
        return [{"label": label, "value": row, "unknown": None} for label, row, _ in predictions.rows()]
    return [
        {"label": label, "probabilities": dict(zip(names, row, strict=True)), "unknown": score} for label, row, score in predictions.rows()
    ]


def _prediction_json(prediction: Prediction) -> Json:
    body: Json = {"label": prediction.label}
    if prediction.probabilities is not None:
        body["probabilities"] = dict(prediction.probabilities)
    if prediction.value is not None:
        body["value"] = list(prediction.value)
    body["unknown"] = prediction.unknown
    if prediction.explanation is not None:
        body["explanation"] = [asdict(evidence) for evidence in prediction.explanation]
    return body


def neighbourhood_json(found: Neighbourhood) -> Json:
    """Similar tasks as `schemas.NeighbourhoodJson`."""
    return {
        "task_id": found.of.task_id,
        "revision": found.of.revision,
        "initializer": ref_json(found.of.initializer),
        "measure": MEASURE,
        "compared": found.compared,
        "has_more": found.has_more,
        "data": [_neighbour_json(neighbour) for neighbour in found.neighbours],
    }


def _neighbour_json(neighbour: Neighbour) -> Json:
    task = neighbour.task
    serving = task.serving or task.latest
    return {
        "task_id": task.id,
        "name": task.name,
        "metadata": task.metadata,
        "revision": serving.revision,
        "support": {"n_support": serving.n_support, "classes": dict(serving.class_counts)},
        "distance": neighbour.distance,
        "parts": dict(neighbour.parts),
        "created_at": task.created_at,
        "links": {"self": f"/v1/tasks/{task.id}"},
    }


def page_response(request: Request, page: Page[Any], rows: Sequence[Json]) -> Response:
    """A page with its cursor, and the URL of the next one in Link (RFC 8288)."""
    last_id = rows[-1]["id"] if rows else None
    headers = {}
    if page.has_more and last_id:
        query = urlencode([*((key, value) for key, value in request.query_params.multi_items() if key != "after"), ("after", last_id)])
        headers["Link"] = f'<{request.url.path}?{query}>; rel="next"'
    body = {"data": rows, "first_id": rows[0]["id"] if rows else None, "last_id": last_id, "has_more": page.has_more}
    return json_response(body, headers=headers)


def initializer_json(info: InitializerInfo) -> Json:
    """An initializer as `schemas.InitializerJson`."""
    limits = info.limits
    return {
        **ref_json(info.ref),
        "kind": info.kind,
        "input": {"kind": info.input.kind, "shape": list(info.input.shape)},
        "limits": {
            "min_way": limits.min_way,
            "max_way": limits.max_way,
            "max_support": limits.max_support,
            "max_steps": limits.max_steps,
        },
        "default_steps": info.default_steps,
        "sha256": info.sha256,
        "versions": None,
        "card": info.card,
    }


def reload_json(outcome: ReloadOutcome) -> Json:
    """What a reload did, as `schemas.ReloadJson`."""
    return {
        "name": outcome.new.name,
        "old_version": outcome.old.version if outcome.old else None,
        "new_version": outcome.new.version,
        "changed": outcome.changed,
        "readapting": outcome.readapting,
    }


def key_json(key: KeyInfo) -> Json:
    """A key without its secret, as `schemas.KeyJson`."""
    return {
        "id": key.id,
        "prefix": key.prefix,
        "name": key.name,
        "scopes": sorted(key.scopes),
        "created_at": key.created_at,
        "revoked_at": key.revoked_at,
    }
