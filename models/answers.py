"""Many tasks' queries in one call: ragged lanes in, every lane's answers out, by torch on any device.

`models.answers_native` does the same in one call of C where a CPU can. Everything here blocks; call it from the thread that owns the
device.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from models.confidence import Confidence, calibrate
from models.errors import InvalidOptions
from models.learner import Explains, Learner
from models.serving import guard_memory
from models.support import Params, State, Support, stack_states, stack_supports

Array = npt.NDArray[Any]
PLAIN = Confidence()


@dataclass(frozen=True)
class AnsweredLane:
    """One task's answers: probabilities (n_query, n_way) over its own classes, or values (n_query, n_out).

    unknown: (n_query,) how likely each query is of no class of the task; None where the initializer has no figures for it.
    weights: (n_query, n_support), how each support example drove each answer (see `models.learner.Explains`), where it was asked for.
    is_finite: False when an answer is no number: the queries were far outside of what the learner can read.
    """

    values: Array
    unknown: Array | None = None
    weights: Array | None = None
    is_finite: bool = True


def answer_lanes(
    learner: Learner,
    params: Params,
    states: Sequence[State],
    queries: Sequence[Array],
    max_samples: int,
    confidence: Confidence = PLAIN,
    explained: Sequence[Support] = (),
) -> list[AnsweredLane]:
    """Answers every task's queries (n_query, *input_shape) by its own state, in batched forwards of about `max_samples` at most.

    confidence: how probabilities are read off the logits; the default is their softmax.
    explained: every task's support set, for answers with the weights of its examples; the learner must be one that Explains.
    Raises OutOfMemory.
    """
    device = next(iter(params.values())).device

    def run() -> list[AnsweredLane]:
        padded = _stack_queries(queries)
        with torch.no_grad():
            columns = [column.to(device) for column in torch.split(padded, max(1, max_samples // len(queries)), dim=1)]
            state = states[0] if len(states) == 1 else stack_states(states)
            outputs = torch.cat([learner.predict(params, state, column) for column in columns], dim=1)
            answers, unknown = calibrate(outputs, confidence) if learner.kind == "classification" else (outputs, None)
            weights = _explain(learner, params, state, columns, stack_supports(explained).to(device)) if explained else None
            rows, unknowns = answers.cpu().numpy(), None if unknown is None else unknown.cpu().numpy()
        return [
            _take_lane(rows[lane, : len(mine), : _count_answers(states[lane])], unknowns, weights, lane, explained)
            for lane, mine in enumerate(queries)
        ]

    return guard_memory(run, device, len(queries))


def _take_lane(values: Array, unknowns: Array | None, weights: Array | None, lane: int, explained: Sequence[Support]) -> AnsweredLane:
    """A lane's own part; copies, since a view would keep the whole batch alive."""
    unknown = None if unknowns is None else unknowns[lane, : len(values)].copy()
    weight = None if weights is None else weights[lane, : len(values), : explained[lane].inputs.shape[1]].copy()
    return AnsweredLane(values.copy(), unknown, weight, bool(np.isfinite(values).all()))


def _stack_queries(queries: Sequence[Array]) -> Tensor:
    """Every lane's queries, padded with zeros to the longest, (lanes, longest, *input_shape).

    numpy copies what is small without giving the interpreter away. torch gives it away in every call, and beside a busy thread each of
    them waits tens of microseconds to get it back; so whatever is done for each lane is numpy's.
    """
    padded = np.zeros((len(queries), max(map(len, queries)), *queries[0].shape[1:]), np.float32)
    for lane, mine in enumerate(queries):
        padded[lane, : len(mine)] = mine
    return torch.from_numpy(padded)


def _count_answers(state: State) -> int | None:
    """The classes of a lane; None where answers are not classes."""
    return state["class.mask"].shape[1] if "class.mask" in state else None


def _explain(learner: Learner, params: Params, state: State, columns: Sequence[Tensor], support: Support) -> Array:
    """(lanes, n_query, n_support) of queries that come in columns (lanes, n, *input_shape); of a class that was the answer's own."""
    if not isinstance(learner, Explains):
        raise InvalidOptions("this learner cannot say which support examples drove an answer")
    return torch.cat([learner.explain(params, state, support, column) for column in columns], dim=1).cpu().numpy()
