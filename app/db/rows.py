"""Rows to values and back: the only place that knows both the tables and the domain."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Literal, cast

import numpy as np
from sqlalchemy import Row

from app.db.tables import AdaptationRow, ExamplesRow, PredictionRow
from app.domain import (
    Adaptation,
    Array,
    Evidence,
    InitializerInfo,
    InitializerRef,
    Label,
    Prediction,
    PredictionSet,
    Status,
    SupportSet,
    Task,
    TaskOptions,
    WarmStart,
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


def embedding_to_bytes(embedding: Array | None) -> bytes | None:
    """A task's vector as little-endian float32."""
    return None if embedding is None else np.ascontiguousarray(embedding, dtype="<f4").tobytes()


def embedding_from(stored: bytes) -> Array:
    """A stored vector, read-only."""
    return np.frombuffer(stored, dtype="<f4")


def new_adaptation(
    task_id: str,
    revision: int,
    info: InitializerInfo,
    support: SupportSet,
    options: TaskOptions,
    at: datetime,
    selection: dict[str, Any] | None = None,
) -> Adaptation:
    """A queued adaptation to a support set whose examples are (being) stored. selection: the choice to be made, where `info` is only its
    first guess."""
    class_counts = dict(Counter(map(str, support.labels))) if info.kind == "classification" else {}
    return Adaptation(
        task_id=task_id,
        revision=revision,
        status=Status.QUEUED,
        initializer=info.ref,
        options=options,
        classes=tuple(sorted(class_counts)),
        class_counts=class_counts,
        n_support=len(support.labels),
        attempts=0,
        created_at=at,
        selection=selection,
    )


def new_adaptation_to_values(adaptation: Adaptation, support_id: str) -> dict[str, Any]:
    """The columns of an adaptation that is not finished."""
    return {
        "task_id": adaptation.task_id,
        "revision": adaptation.revision,
        "status": adaptation.status,
        "initializer_name": adaptation.initializer.name,
        "initializer_version": adaptation.initializer.version,
        "options": options_to_json(adaptation.options),
        "support_id": support_id,
        "n_support": adaptation.n_support,
        "class_counts": dict(adaptation.class_counts),
        "selection": adaptation.selection,
        "created_at": adaptation.created_at,
        **_not_started(),
        "attempts": adaptation.attempts,
        "started_at": adaptation.started_at,
    }


def finish_to_values(finished: Adaptation, embedding: Array | None, start: bytes | None) -> dict[str, Any]:
    """The columns that a finish fills. start: the weights it began with, where they were not the usual ones."""
    return {
        "finished_at": finished.finished_at,
        "loss": list(finished.loss),
        "accuracy": list(finished.accuracy),
        "timings_ms": dict(finished.timings_ms),
        "embedding": embedding_to_bytes(embedding),
        "warm_start": asdict(finished.warm_start) if finished.warm_start is not None else None,
        "start": start,
    }


def repeated_adaptation(row: AdaptationRow, revision: int, ref: InitializerRef, at: datetime) -> AdaptationRow:
    """A queued row with the support set, options and choice of another one, on another version of its initializer."""
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
        selection=row.selection,
        created_at=at,
        **_not_started(),
    )


@dataclass(frozen=True)
class NewRows:
    """A new task as the columns of its rows: itself, its support and query set, its first adaptation."""

    task: dict[str, Any]
    examples: tuple[dict[str, Any], ...]
    adaptation: dict[str, Any]


def new_task_to_rows(task: Task, support: SupportSet, query: Array | None, fingerprint: str) -> NewRows:
    """The rows of a task that nothing serves yet."""
    supported = examples_to_values(task.id, support.inputs, support.labels)
    queried = examples_to_values(task.id, query) if query is not None else None
    columns = {
        "id": task.id,
        "owner": task.owner,
        "name": task.name,
        "metadata": dict(task.metadata),
        "fingerprint": fingerprint,
        "created_at": task.created_at,
        "expires_at": task.expires_at,
        "latest_revision": task.latest.revision,
        "serving_revision": None,
        "query_id": queried["id"] if queried is not None else None,
    }
    examples = (supported,) if queried is None else (supported, queried)
    return NewRows(columns, examples, new_adaptation_to_values(task.latest, supported["id"]))


def task_from(revisions: Mapping[int, Row[Any]]) -> Task:
    """A task from the rows of its latest and its serving adaptation, by revision, which hold the task's columns, too: `created_at` as
    `task_created_at`."""
    row = next(iter(revisions.values()))
    return Task(
        id=row.id,
        owner=row.owner,
        name=row.name,
        metadata=row.task_metadata,
        created_at=row.task_created_at,
        expires_at=row.expires_at,
        latest=_shown(revisions[row.latest_revision]),
        serving=_shown(revisions[row.serving_revision]) if row.serving_revision is not None else None,
        has_query=row.query_id is not None,
    )


def _shown(row: Row[Any]) -> Adaptation:
    return adaptation_from(cast(AdaptationRow, row))


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
        warm_start=WarmStart(**row.warm_start) if row.warm_start is not None else None,
        selection=row.selection,
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
        predictions=tuple(_prediction_from(prediction) for prediction in row.predictions),
        timings_ms=row.timings_ms,
        created_at=row.created_at,
        id=row.id,
        source=cast(Literal["query", "recorded"], row.source),
    )


def options_to_json(options: TaskOptions) -> dict[str, Any]:
    """Only what the client chose."""
    steps = {"steps": options.steps} if options.steps is not None else {}
    return {**steps, "warm_start": True} if options.warm_start else steps


def options_from_json(options: Mapping[str, Any]) -> TaskOptions:
    """The client's choices, as stored."""
    return TaskOptions(steps=options.get("steps"), warm_start=options.get("warm_start", False))


def _prediction_to_json(prediction: Prediction) -> dict[str, Any]:
    """What there is; an answer of millions has no room for what there is not."""
    explanation = [asdict(evidence) for evidence in prediction.explanation] if prediction.explanation is not None else None
    values = {
        "value": prediction.value,
        "probabilities": prediction.probabilities,
        "explanation": explanation,
        "unknown": prediction.unknown,
    }
    return {"label": prediction.label, **{name: value for name, value in values.items() if value is not None}}


def _prediction_from(stored: Mapping[str, Any]) -> Prediction:
    explanation = stored.get("explanation")
    evidence = tuple(Evidence(**each) for each in explanation) if explanation is not None else None
    return Prediction(stored["label"], stored.get("probabilities"), stored.get("value"), stored.get("unknown"), evidence)


def _not_started() -> dict[str, Any]:
    empty: dict[str, Any] = {"loss": [], "accuracy": [], "timings_ms": {}}
    absent = ("started_at", "finished_at", "embedding", "warm_start", "start", "error_code")
    return {"attempts": 0, **empty, **dict.fromkeys(absent)}


def _little(array: Array) -> Array:
    return array.astype(array.dtype.newbyteorder("<"), copy=False)
