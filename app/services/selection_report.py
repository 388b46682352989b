"""The `selection` of a task as it is stored and shown: what was tried, what was chosen, and what was taken when that failed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from app.domain import InitializerRef
from app.errors import AppError
from app.services.search import Search
from app.services.selection import AUTO, PRIOR_EXAMPLES, Candidate, Trial

Json = dict[str, Any]

MAX_FALLBACKS = 2
"""When the chosen initializer fails on the whole support set the next best is taken; a third that fails is the support set's fault."""

_WITHOUT_FAULT = {"budget", "too_slow", "nothing_to_hold_out"}


def ask_for_choice() -> Json:
    """The `selection` of a row whose initializer is still to be chosen."""
    return {"requested": AUTO, "chosen": None}


def report_search(search: Search, budget_ms: float) -> Json:
    """What a search has come to."""
    tried = {trial.candidate for trial in search.trials}
    left = [candidate for candidate in search.candidates if candidate not in tried]
    reason = "budget" if any(trial.held_out.n for trial in search.trials) or not search.trials else "nothing_to_hold_out"
    reasons = {**dict.fromkeys(search.too_slow, "too_slow"), **search.failed}
    return {
        **ask_for_choice(),
        "chosen": _choice_json(search.chosen),
        "tried": [_trial_json(trial) for trial in search.trials],
        "not_tried": [{**_candidate_json(candidate), "reason": reasons.get(candidate, reason)} for candidate in left],
        "failed": [],
        "held_out_examples": max((trial.held_out.n for trial in search.trials), default=0),
        "prior_examples": PRIOR_EXAMPLES,
        "budget_ms": budget_ms,
        "ms": round(search.ms, 3),
    }


def report_fallback(selection: Mapping[str, Any], failed: InitializerRef, following: Candidate, fault: AppError) -> Json:
    """The report with another choice, and what became of the one before."""
    steps = selection["chosen"]["steps"]
    entry = {"initializer": failed.name, "version": failed.version, "steps": steps, "reason": fault.code, "detail": fault.told}
    return {**selection, "chosen": _choice_json(following), "failed": [*selection.get("failed", []), entry]}


def find_next_best(selection: Mapping[str, Any]) -> Candidate | None:
    """The best scored of the initializers that have not failed, else the first that was not tried; None when enough have failed."""
    failed = selection.get("failed", [])
    if len(failed) >= MAX_FALLBACKS:
        return None
    faulty = [each for each in selection["not_tried"] if each["reason"] not in _WITHOUT_FAULT]
    out = {each["initializer"] for each in [selection["chosen"], *failed, *faulty]}
    tried = sorted(selection["tried"], key=lambda trial: math.inf if trial["score"] is None else trial["score"])
    left = [each for each in [*tried, *selection["not_tried"]] if each["initializer"] not in out]
    return next((Candidate(InitializerRef(each["initializer"], each["version"]), each["steps"], each["prior"]) for each in left), None)


def _choice_json(candidate: Candidate) -> Json:
    return {"initializer": candidate.ref.name, "version": candidate.ref.version, "steps": candidate.steps}


def _candidate_json(candidate: Candidate) -> Json:
    return {**_choice_json(candidate), "prior": _number(candidate.prior)}


def _trial_json(trial: Trial) -> Json:
    held_out = trial.held_out
    figures = {"held_out_loss": _number(held_out.loss), "held_out_accuracy": _number(held_out.accuracy), "n": held_out.n}
    return {**_candidate_json(trial.candidate), **figures, "score": _number(trial.score), "ms": round(trial.ms, 3)}


def _number(value: float | None) -> float | None:
    """JSON in PostgreSQL has neither NaN nor infinity."""
    return round(value, 6) if value is not None and math.isfinite(value) else None
