"""From a stored adaptation to a lane of the engine, and from the engine's numbers back to labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from app.domain import (
    Adaptation,
    Adapted,
    AdaptJob,
    Answers,
    Array,
    Evidence,
    InitializerInfo,
    Label,
    Phases,
    Prediction,
    StateKey,
    SupportSet,
    as_float32,
)
from app.services.answer_table import AnswerTable

MAX_EVIDENCE = 5
"""An explanation names at most this many support examples."""


def state_key(adaptation: Adaptation) -> StateKey:
    """The name of the state this adaptation makes."""
    return StateKey(adaptation.task_id, adaptation.revision, adaptation.initializer)


def build_job(adaptation: Adaptation, support: SupportSet, info: InitializerInfo, start: bytes | None = None) -> AdaptJob:
    """The lane of one adaptation; classes are numbered in sorted order, steps and start are the initializer's own unless given."""
    regression = info.kind == "regression"
    return AdaptJob(
        key=state_key(adaptation),
        inputs=as_float32(support.inputs),
        targets=_values(support) if regression else _class_indices(support),
        n_way=0 if regression else len(support.classes),
        steps=_choose_steps(adaptation, info),
        start=start,
    )


def _choose_steps(adaptation: Adaptation, info: InitializerInfo) -> int:
    """The client's, else those that `auto` chose while this version's limits allow them, else the initializer's own."""
    chosen = (adaptation.selection or {}).get("chosen") or {}
    steps = adaptation.options.steps or chosen.get("steps") or info.default_steps
    return int(steps) if steps <= max(info.limits.max_steps, info.default_steps) else info.default_steps


def name_answers(
    answers: Answers, adaptation: Adaptation, info: InitializerInfo, explained: SupportSet | None = None
) -> Sequence[Prediction]:
    """Labels get their names back: the likeliest class with every class's probability, or the value; `explained` names the evidence."""
    is_regression = info.kind == "regression"
    named = AnswerTable(answers.values, () if is_regression else adaptation.classes, None if is_regression else answers.unknown)
    if explained is None or answers.weights is None:
        return named
    return tuple(
        replace(prediction, explanation=choose_evidence(weights, explained.labels))
        for prediction, weights in zip(named, answers.weights, strict=True)
    )


def choose_evidence(weights: Array, labels: Sequence[Label]) -> tuple[Evidence, ...]:
    """The examples of largest absolute weight (n_support,), largest first, equal ones by index; those of weight zero say nothing."""
    size = np.abs(weights)
    n_kept = min(MAX_EVIDENCE, len(size))
    candidates = np.flatnonzero((size >= np.partition(size, -n_kept)[-n_kept]) & (size > 0))
    order = candidates[np.argsort(-size[candidates], kind="stable")][:n_kept]
    return tuple(Evidence(int(i), labels[i], float(weights[i])) for i in order)


def phases_ms(phases: Phases) -> dict[str, float]:
    """The engine's phases up to the numbers themselves, under the names that timings and metrics use."""
    named = {"queue": phases.queue_ms, "batch": phases.batch_ms, "device": phases.device_ms}
    return {name: round(ms, 3) for name, ms in named.items()}


def adaptation_phases_ms(adaptation: Adaptation, adapted: Adapted, choose_ms: float | None) -> dict[str, float]:
    """The phases up to the end of the adaptation from the usual start, in their order."""
    started_at = adaptation.started_at or adaptation.created_at
    queue_wait_ms = max(0.0, (started_at - adaptation.created_at).total_seconds() * 1000)
    choose = {} if choose_ms is None else {"choose": choose_ms}
    return {"queue_wait": queue_wait_ms, **choose, **phases_ms(adapted.phases), "encode": adapted.phases.encode_ms}


def _class_indices(support: SupportSet) -> Array:
    index = {name: i for i, name in enumerate(support.classes)}
    return np.array([index[str(label)] for label in support.labels], dtype=np.int64)


def _values(support: SupportSet) -> Array:
    return np.array([[float(label)] for label in support.labels], dtype=np.float32)
