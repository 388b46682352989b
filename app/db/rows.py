"""Rows to values and back: the only place that knows both the tables and the domain."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal, cast

import numpy as np

from app.db.tables import AdaptationRow, ExamplesRow, PredictionRow, TaskRow
from app.domain import (
    Adaptation,
    Array,
    InitializerInfo,
    InitializerRef,
    Label,
    Prediction,
    PredictionSet,
    Status,
    SupportSet,
    Task,
    TaskOptions,
)


def examples_id(inputs: Array, labels: tuple[Label, ...]) -> str:
    """sha256 of dtype, shape, bytes and labels: equal content, equal id."""
    digest = hashlib.sha256(json.dumps([_little(inputs).dtype.str, inputs.shape, list(labels)]).encode())
    digest.update(np.ascontiguousarray(_little(inputs)).data)
    return digest.hexdigest()


def examples_to_values(task_id: str, inputs: Array, labels: tuple[Label, ...] = ()) -> dict[str, Any]:
    """The columns of `examples`; a query set has no labels."""
    array = np.ascontiguousarray(_little(inputs))
    return {
        "task_id": task_id,
        "id": examples_id(inputs, labels),
        "dtype": array.dtype.str,
        "shape": list(array.shape),
        "inputs": array.tobytes(),
        "labels": list(labels),
    }


def support_from(row: ExamplesRow) -> SupportSet:
    """A stored support set, in its dtype; the array is read-only."""
    return SupportSet(inputs=inputs_from(row), labels=tuple(row.labels))


def inputs_from(row: ExamplesRow) -> Array:
    """The stored inputs (n, *input shape), read-only."""
    return np.frombuffer(row.inputs, dtype=np.dtype(row.dtype)).reshape(row.shape)


def new_adaptation(
    task_id: str, revision: int, info: InitializerInfo, support: SupportSet, options: TaskOptions, at: datetime
) -> AdaptationRow:
    """A queued row for a support set whose examples are (being) stored."""
    return AdaptationRow(
        task_id=task_id,
        revision=revision,
        status=Status.QUEUED,
        initializer_name=info.ref.name,
        initializer_version=info.ref.version,
        options=options_to_json(options),
        support_id=examples_id(support.inputs, support.labels),
        n_support=len(support.labels),
        class_counts=dict(Counter(map(str, support.labels))) if info.kind == "classification" else {},
        created_at=at,
        **_not_started(),
    )


def repeated_adaptation(row: AdaptationRow, revision: int, ref: InitializerRef, at: datetime) -> AdaptationRow:
    """A queued row with the support set and options of another one, on another initializer version."""
    return AdaptationRow(
        task_id=row.task_id,
        revision=revision,
        status=Status.QUEUED,
        initializer_name=ref.name,
        initializer_version=ref.version,
        options=row.options,
        support_id=row.support_id,
        n_support=row.n_support,
        class_counts=row.class_counts,
        created_at=at,
        **_not_started(),
    )


def task_from(row: TaskRow, adaptations: Mapping[int, AdaptationRow]) -> Task:
    """A task with its latest and its serving adaptation, given by revision."""
    return Task(
        id=row.id,
        owner=row.owner,
        name=row.name,
        metadata=row.task_metadata,
        created_at=row.created_at,
        expires_at=row.expires_at,
        latest=adaptation_from(adaptations[row.latest_revision]),
        serving=adaptation_from(adaptations[row.serving_revision]) if row.serving_revision is not None else None,
        has_query=row.query_id is not None,
    )


def adaptation_from(row: AdaptationRow) -> Adaptation:
    """An adaptation as the services speak of it."""
    return Adaptation(
        task_id=row.task_id,
        revision=row.revision,
        status=Status(row.status),
        initializer=InitializerRef(row.initializer_name, row.initializer_version),
        options=options_from_json(row.options),
        classes=tuple(sorted(row.class_counts)),
        class_counts=row.class_counts,
        n_support=row.n_support,
        attempts=row.attempts,
        created_at=row.created_at,
        started_at=row.started_at,
        finished_at=row.finished_at,
        loss=tuple(row.loss),
        accuracy=tuple(row.accuracy),
        timings_ms=row.timings_ms,
        error_code=row.error_code,
        error_detail=row.error_detail,
    )


def prediction_set_to_values(answers: PredictionSet) -> dict[str, Any]:
    """The columns of `predictions`; the set must have an id."""
    return {
        "id": answers.id,
        "task_id": answers.task_id,
        "revision": answers.revision,
        "initializer_name": answers.initializer.name,
        "initializer_version": answers.initializer.version,
        "source": answers.source,
        "predictions": [_prediction_to_json(prediction) for prediction in answers.predictions],
        "timings_ms": dict(answers.timings_ms),
        "created_at": answers.created_at,
    }


def prediction_set_from(row: PredictionRow) -> PredictionSet:
    """A stored set of answers."""
    return PredictionSet(
        task_id=row.task_id,
        revision=row.revision,
        initializer=InitializerRef(row.initializer_name, row.initializer_version),
        predictions=tuple(Prediction(p["label"], p.get("probabilities"), p.get("value")) for p in row.predictions),
        timings_ms=row.timings_ms,
        created_at=row.created_at,
        id=row.id,
        source=cast(Literal["query", "recorded"], row.source),
    )


def options_to_json(options: TaskOptions) -> dict[str, Any]:
    """Only what the client chose."""
    return {"steps": options.steps} if options.steps is not None else {}


def options_from_json(options: Mapping[str, Any]) -> TaskOptions:
    """The client's choices, as stored."""
    return TaskOptions(steps=options.get("steps"))


def _prediction_to_json(prediction: Prediction) -> dict[str, Any]:
    if prediction.value is not None:
        return {"label": prediction.label, "value": list(prediction.value)}
    return {"label": prediction.label, "probabilities": dict(prediction.probabilities or {})}


def _not_started() -> dict[str, Any]:
    return {"attempts": 0, "started_at": None, "finished_at": None, "loss": [], "accuracy": [], "timings_ms": {}, "error_code": None}


def _little(array: Array) -> Array:
    return array.astype(array.dtype.newbyteorder("<"), copy=False)
