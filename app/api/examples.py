"""What the service really answered, for the OpenAPI document: a task, its prediction, and a refusal."""

from __future__ import annotations

from pydantic import JsonValue

_ID = "task_01m7y79qw141zgx2kbfx9d60g7"
_PROTONET: dict[str, JsonValue] = {"name": "omniglot-protonet", "version": 1}

TASK: dict[str, JsonValue] = {
    "id": _ID,
    "status": "ready",
    "name": "two strokes",
    "metadata": {"customer": "acme"},
    "initializer": _PROTONET,
    "revision": 1,
    "serving": {"revision": 1, "initializer": _PROTONET},
    "options": {"steps": None, "warm_start": False},
    "support": {"n_support": 2, "classes": {"bar": 1, "dash": 1}},
    "has_query": False,
    "loss": [0.0003],
    "accuracy": [1.0],
    "timings_ms": {"queue_wait": 10.325, "queue": 0.202, "device": 2.014, "encode": 0.727, "store": 0.015},
    "warm_start": None,
    "selection": None,
    "attempts": 1,
    "error": None,
    "created_at": "2026-11-21T04:56:04.665109+00:00",
    "started_at": "2026-11-21T04:56:04.675434+00:00",
    "finished_at": "2026-11-21T04:56:04.695500+00:00",
    "expires_at": "2026-11-21T05:56:04.665109+00:00",
    "links": {
        "self": f"/v1/tasks/{_ID}",
        "predictions": f"/v1/tasks/{_ID}/predictions",
        "support": f"/v1/tasks/{_ID}/support",
        "similar": f"/v1/tasks/{_ID}/similar",
    },
}

PREDICTIONS: dict[str, JsonValue] = {
    "id": None,
    "task_id": _ID,
    "source": "live",
    "revision": 1,
    "initializer": _PROTONET,
    "predictions": [{"label": "bar", "probabilities": {"bar": 0.9997, "dash": 0.0003}, "unknown": None}],
    "timings_ms": {"decode": 0.145, "queue": 0.159, "device": 0.413, "encode": 0.0, "total": 1.01},
    "created_at": "2026-11-21T04:56:05.786989+00:00",
}

SIMILAR: dict[str, JsonValue] = {
    "task_id": _ID,
    "revision": 1,
    "initializer": _PROTONET,
    "measure": {
        "name": "wasserstein-2-diagonal",
        "description": "How far two support sets lie apart in the initializer's features: ...",
    },
    "compared": 1,
    "has_more": False,
    "data": [
        {
            "task_id": "task_01m7yjhrvrydyrhyznrgre1pyt",
            "name": "two other strokes",
            "metadata": {"customer": "acme"},
            "revision": 1,
            "support": {"n_support": 2, "classes": {"upright": 1, "level": 1}},
            "distance": 0.1032243454479194,
            "parts": {"centre": 0.08040489004762731, "spread": 0.06473267451280197},
            "created_at": "2026-11-21T08:11:17.752123+00:00",
            "links": {"self": "/v1/tasks/task_01m7yjhrvrydyrhyznrgre1pyt"},
        }
    ],
}

PROBLEM: dict[str, JsonValue] = {
    "type": "urn:innerloop:problem:invalid_support",
    "title": "Invalid support set",
    "status": 422,
    "detail": "The support set cannot be used: #/support/labels/2: a label without an input: 3 labels for 2 inputs",
    "instance": "/v1/tasks",
    "code": "invalid_support",
    "errors": [{"pointer": "#/support/labels/2", "detail": "a label without an input: 3 labels for 2 inputs"}],
    "trace_id": "525496035aca48cb996944082158e78f",
}
