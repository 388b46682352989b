"""What the service really answered, for the OpenAPI document: tasks, their predictions, similar tasks, and a refusal.

A list of `selection` is shortened; everything else is as it came.
"""

from __future__ import annotations

from typing import Any

from pydantic import JsonValue

from app.api.inputs import EXAMPLE_PIXELS, EXAMPLE_STROKES
from app.api.measure import MEASURE

Json = dict[str, JsonValue]

_ID = "task_01m7yvmrk30qgavkzqjhz4anpj"
_AUTO_ID = "task_01m7yvms0gg5kmsbpcsf60atrj"
_WAVE_ID = "task_01m7yvt8ezwhx0h2mrfeby0k5c"
_PROTONET: Json = {"name": "omniglot-protonet", "version": 1}
_SINUSOID: Json = {"name": "sinusoid-maml", "version": 1}
_COMMON: Json = {"metadata": {"customer": "acme"}, "ttl_s": 3600}


def _links(task_id: str) -> Json:
    url = f"/v1/tasks/{task_id}"
    return {"self": url, "predictions": f"{url}/predictions", "support": f"{url}/support", "similar": f"{url}/similar"}


TASK: Json = {
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
    "loss": [0.0],
    "accuracy": [1.0],
    "timings_ms": {"queue_wait": 0.0, "queue": 0.083, "batch": 0.195, "device": 2.077, "encode": 0.473, "store": 0.016},
    "warm_start": None,
    "selection": None,
    "attempts": 1,
    "error": None,
    "created_at": "2026-11-21T16:11:21.360736+00:00",
    "started_at": "2026-11-21T16:11:21.360736+00:00",
    "finished_at": "2026-11-21T16:11:21.365371+00:00",
    "expires_at": "2026-11-21T17:11:21.360736+00:00",
    "links": _links(_ID),
}


def _candidate(name: str, steps: int, prior: float, **more: JsonValue) -> Json:
    return {"initializer": name, "version": 1, "steps": steps, "prior": prior, **more}


def _trial(name: str, steps: int, prior: float, score: float, ms: float) -> Json:
    return _candidate(name, steps, prior, held_out_loss=0.0, held_out_accuracy=1.0, n=4, score=score, ms=ms)


_SELECTION: Json = {
    "requested": "auto",
    "chosen": {"initializer": "omniglot-protonet", "version": 1, "steps": 0},
    "tried": [
        _trial("omniglot-protonet", 0, 0.010282, 0.00952, 4.095),
        _trial("omniglot-protomaml", 2, 0.010763, 0.009965, 18.738),
        _trial("omniglot-relationnet", 0, 0.010999, 0.010184, 4.106),
    ],
    "not_tried": [
        _candidate("omniglot-learned-optimizer", 1, 0.019224, reason="budget"),
        _candidate("omniglot-mamlpp", 6, 0.020198, reason="budget"),
    ],
    "failed": [],
    "held_out_examples": 4,
    "prior_examples": 50.0,
    "budget_ms": 500.0,
    "ms": 511.971,
}

AUTO_TASK: Json = {
    **TASK,
    "id": _AUTO_ID,
    "name": "four strokes",
    "support": {"n_support": 4, "classes": {"bar": 2, "dash": 2}},
    "loss": [0.0],
    "timings_ms": {"queue_wait": 0.0, "choose": 526.476, "queue": 0.076, "batch": 0.309, "device": 2.135, "encode": 0.702, "store": 0.026},
    "selection": _SELECTION,
    "created_at": "2026-11-21T16:11:21.377828+00:00",
    "started_at": "2026-11-21T16:11:21.377828+00:00",
    "finished_at": "2026-11-21T16:11:21.908912+00:00",
    "expires_at": "2026-11-21T17:11:21.377828+00:00",
    "links": _links(_AUTO_ID),
}

WARM_TASK: Json = {
    **TASK,
    "id": _WAVE_ID,
    "name": "this week's wave",
    "initializer": _SINUSOID,
    "serving": {"revision": 1, "initializer": _SINUSOID},
    "options": {"steps": None, "warm_start": True},
    "support": {"n_support": 6, "classes": {}},
    "loss": [0.6001, 0.2164, 0.1211, 0.0738, 0.0465, 0.0301],
    "accuracy": [],
    "timings_ms": {"queue_wait": 0.0, "queue": 0.074, "batch": 0.374, "device": 4.262, "encode": 0.691, "warm_start": 35.523, "store": 0.0},
    "warm_start": {
        "kept": True,
        "code": "kept",
        "reason": "It is better than the usual start: held-out loss 1.089 against 2.954, on 6 examples.",
        "from_task": "task_01m7yvt843a00e3qfar1kdtbd6",
        "held_out": {"cold": 2.953615427017212, "warm": 1.088891863822937},
    },
    "created_at": "2026-11-21T16:11:21.914004+00:00",
    "started_at": "2026-11-21T16:11:21.914004+00:00",
    "finished_at": "2026-11-21T16:11:21.956348+00:00",
    "expires_at": "2026-11-21T17:11:21.914004+00:00",
    "links": _links(_WAVE_ID),
}

TASKS: dict[str, Any] = {"An initializer by name": TASK, "auto": AUTO_TASK, "A warm start": WARM_TASK}

_WAVE: Json = {
    "inputs": [[-4.37], [-2.57], [-0.77], [1.03], [2.83], [4.63]],
    "labels": [1.945, -2.792, -0.677, 3.1, -0.732, -2.767],
}

TASK_REQUESTS: dict[str, Any] = {
    "An initializer by name": {
        "initializer": "omniglot-protonet",
        "name": "two strokes",
        "support": {"inputs": {"encoding": "images", "data": EXAMPLE_PIXELS}, "labels": ["bar", "dash"]},
        **_COMMON,
    },
    "auto": {
        "initializer": "auto",
        "name": "four strokes",
        "support": {"inputs": {"encoding": "images", "data": EXAMPLE_STROKES}, "labels": ["bar", "dash", "bar", "dash"]},
        **_COMMON,
    },
    "A warm start": {
        "initializer": "sinusoid-maml",
        "name": "this week's wave",
        "support": _WAVE,
        "options": {"warm_start": True},
        **_COMMON,
    },
}

_PLAIN: Json = {
    "id": None,
    "task_id": _ID,
    "source": "live",
    "revision": 1,
    "initializer": _PROTONET,
    "predictions": [{"label": "bar", "probabilities": {"bar": 1.0, "dash": 2.6942696337850514e-11}, "unknown": 2.5694836949696764e-05}],
    "timings_ms": {"decode": 0.66, "queue": 0.032, "batch": 0.178, "device": 0.201, "encode": 0.017, "total": 0.519},
    "created_at": "2026-11-21T16:11:22.064958+00:00",
}

PREDICTIONS: Json = {
    **_PLAIN,
    "task_id": _AUTO_ID,
    "predictions": [
        {
            "label": "bar",
            "probabilities": {"bar": 1.0, "dash": 9.409594631248908e-11},
            "unknown": 0.00005323505320120603,
            "explanation": [
                {"index": 0, "label": "bar", "weight": 0.9999995231628418},
                {"index": 2, "label": "bar", "weight": 3.694864290082478e-07},
                {"index": 3, "label": "dash", "weight": -3.535854631309121e-08},
                {"index": 1, "label": "dash", "weight": -3.526249159335748e-08},
            ],
        }
    ],
    "timings_ms": {"decode": 0.76, "queue": 0.055, "batch": 0.207, "device": 1.567, "encode": 0.046, "total": 5.617},
    "created_at": "2026-11-21T16:11:22.074861+00:00",
}

ANSWERS: dict[str, Any] = {"Plain": _PLAIN, "With explain=true": PREDICTIONS}

SIMILAR: Json = {
    "task_id": _ID,
    "revision": 1,
    "initializer": _PROTONET,
    "measure": {**MEASURE},
    "compared": 1,
    "has_more": False,
    "data": [
        {
            "task_id": "task_01m7yvmt2kpk4dm2ycxve859hd",
            "name": "two other strokes",
            "metadata": {"customer": "acme"},
            "revision": 1,
            "support": {"n_support": 2, "classes": {"upright": 1, "level": 1}},
            "distance": 0.12214469959804196,
            "parts": {"centre": 0.09558840496521871, "spread": 0.07604067645741494},
            "created_at": "2026-11-21T10:50:14.483291+00:00",
            "links": {"self": "/v1/tasks/task_01m7yvmt2kpk4dm2ycxve859hd"},
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
