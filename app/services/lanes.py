"""From a stored adaptation to a lane of the engine, and from the engine's numbers back to labels."""

from __future__ import annotations

import numpy as np

from app.domain import Adaptation, AdaptJob, Answers, Array, InitializerInfo, Phases, Prediction, StateKey, SupportSet, as_float32


def state_key(adaptation: Adaptation) -> StateKey:
    """The name of the state this adaptation makes."""
    return StateKey(adaptation.task_id, adaptation.revision, adaptation.initializer)


def build_job(adaptation: Adaptation, support: SupportSet, info: InitializerInfo) -> AdaptJob:
    """The lane of one adaptation; classes are numbered in sorted order, steps are the initializer's own unless chosen."""
    regression = info.kind == "regression"
    return AdaptJob(
        key=state_key(adaptation),
        inputs=as_float32(support.inputs),
        targets=_values(support) if regression else _class_indices(support),
        n_way=0 if regression else len(support.classes),
        steps=adaptation.options.steps or info.default_steps,
    )


def name_answers(answers: Answers, adaptation: Adaptation, info: InitializerInfo) -> tuple[Prediction, ...]:
    """Labels get their names back: the likeliest class with every class's probability, or the value."""
    if info.kind == "regression":
        return tuple(Prediction(label=row[0], value=row) for row in answers.values.astype(float).tolist())
    names = adaptation.classes
    best = answers.values.argmax(axis=1)
    rows = answers.values.astype(float).tolist()
    return tuple(Prediction(names[i], dict(zip(names, row, strict=True))) for i, row in zip(best, rows, strict=True))


def phases_ms(phases: Phases) -> dict[str, float]:
    """The engine's phases under the names that timings and metrics use."""
    return {"queue": round(phases.queue_ms, 3), "device": round(phases.device_ms, 3), "encode": round(phases.encode_ms, 3)}


def _class_indices(support: SupportSet) -> Array:
    index = {name: i for i, name in enumerate(support.classes)}
    return np.array([index[str(label)] for label in support.labels], dtype=np.int64)


def _values(support: SupportSet) -> Array:
    return np.array([[float(label)] for label in support.labels], dtype=np.float32)
