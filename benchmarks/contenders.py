"""Who takes part: the peers that can be imported and run here, once they have shown that they compute what we compute."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from benchmarks.few_shot import Problem
from benchmarks.harness import Disagreement
from benchmarks.timing import Contender
from models.support import Params

BREAKAGES = (ImportError, AttributeError, TypeError, NotImplementedError, RuntimeError)
"""How a library fails that does not fit this torch. Being wrong is none of these."""


Measure = Callable[[str, Any], float]
"""The difference of a named peer's result from ours. Raises Disagreement."""
CHECKED_TASKS = 4


@dataclass(frozen=True)
class Field:
    """Peers by name, how far the farthest of them ended from us, and why the others are not here."""

    peers: dict[str, Contender] = field(default_factory=dict)
    differences: dict[str, float] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    in_float32: dict[str, float] = field(default_factory=dict)


def open_peers(makers: Mapping[str, Callable[[Problem], Contender]], problem: Problem, measure: Measure) -> Field:
    """Makes every peer and runs it once. measure: the difference of a named peer's result from ours; raises Disagreement."""
    field = Field()
    for name, make in makers.items():
        try:
            contender = make(problem)
            result = contender()
        except BREAKAGES as fault:
            field.missing[name] = f"{type(fault).__name__}: {str(fault).splitlines()[0] if str(fault) else 'no message'}"
            continue
        field.differences[name] = measure(name, result)
        field.peers[name] = contender
    return field


def open_checked_peers(
    makers: Mapping[str, Callable[[Problem], Contender]],
    problem: Problem,
    make_measure: Callable[[Problem, float], Measure],
    tolerance: float,
) -> Field:
    """The peers of `problem`, each run once, after they have agreed in float64 on its first tasks. Raises Disagreement.

    make_measure: how far a result of this problem is from ours, and at most may be. differences are those in float64, `in_float32` those
    of what will be timed, which nobody is held to (see `Problem.to_float64`)."""
    exact = problem.to_float64(CHECKED_TASKS)
    checked = open_peers(makers, exact, make_measure(exact, tolerance))
    field = open_peers({name: makers[name] for name in checked.peers}, problem, make_measure(problem, math.inf))
    held = {name: checked.differences[name] for name in field.peers}
    return Field(field.peers, held, {**checked.missing, **field.missing}, in_float32=field.differences)


def check_weights(name: str, theirs: Params, ours: Params, tolerance: float) -> float:
    """The largest difference of any number. Raises Disagreement when it is above the tolerance, or a tensor is missing."""
    _check_names(name, theirs, ours)
    return _check(name, {tensor: (theirs[tensor] - value).abs().max() for tensor, value in ours.items()}, tolerance)


def check_gradients(name: str, theirs: Params, ours: Params, tolerance: float) -> float:
    """The largest relative difference of any tensor, in the Euclidean norm. Raises Disagreement likewise."""
    _check_names(name, theirs, ours)
    return _check(name, {tensor: (theirs[tensor] - value).norm() / value.norm() for tensor, value in ours.items()}, tolerance)


def _check_names(name: str, theirs: Params, ours: Params) -> None:
    if missing := set(ours) - set(theirs):
        raise Disagreement(f"{name} has no {sorted(missing)}")


def _check(name: str, differences: dict[str, Tensor], tolerance: float) -> float:
    worst = max(differences, key=lambda tensor: differences[tensor].nan_to_num(nan=float("inf")).item())
    difference = differences[worst].item()
    if not difference <= tolerance:  # also when it is not a number
        raise Disagreement(f"{name} is {difference:.1e} away from ours in {worst}, more than {tolerance:.0e}: not the same work")
    return difference
