"""Many tasks in one call: ragged support sets or queries in, one result per task out, as a server needs them.

The learner sees one padded, masked batch; the caller sees lanes. Everything here blocks; call it from the thread that owns the device.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from models.confidence import Confidence, calibrate
from models.errors import InvalidOptions, OutOfMemory
from models.learner import Adaptation, AdaptsEach, Explains, Learner, PredictsEach
from models.support import (
    Params,
    State,
    Support,
    make_support,
    split_state,
    stack_states,
    stack_supports,
)
from models.task_embedding import describe_features, embed_tasks

T = TypeVar("T")
PLAIN = Confidence()


@dataclass(frozen=True)
class AdaptedLane:
    """One task's outcome: its state (a lane axis of one; a view of the batch's) on the host, and its curve over the inner steps.

    accuracy is empty for regression. is_finite is False when the inner loop diverged: the state is of no use then.
    embedding: the task as a vector on the host (see `models.task_embedding`); None when the learner has none, or it is not finite.
    """

    state: State
    loss: tuple[float, ...]
    accuracy: tuple[float, ...]
    is_finite: bool
    embedding: Tensor | None = None


@dataclass(frozen=True)
class AnsweredLane:
    """One task's answers on the CPU: probabilities (n_query, n_way) over its own classes, or values (n_query, n_out).

    unknown: (n_query,) how likely each query is of no class of the task; None where the initializer has no figures for it.
    weights: (n_query, n_support), how each support example drove each answer (see `models.learner.Explains`), where it was asked for.
    """

    values: Tensor
    unknown: Tensor | None = None
    weights: Tensor | None = None

    @property
    def is_finite(self) -> bool:
        """False when an answer is no number: the queries were far outside of what the learner can read."""
        return bool(np.isfinite(self.values.numpy()).all())


def adapt_lanes(
    learner: Learner, params: Params, supports: Sequence[Support], steps: int | Sequence[int], start: Params | None = None
) -> list[AdaptedLane]:
    """Adapts every support set (one lane each, on any device) in one batched inner loop on the device of `params`.

    steps: of all lanes, or of each where `mixes_steps`. start: the weights that the inner loop starts from, `params` unless given.
    Raises OutOfMemory, InvalidOptions.
    """
    device = _device_of(params)
    counts = [steps] * len(supports) if isinstance(steps, int) else list(steps)

    def run() -> list[AdaptedLane]:
        support = stack_supports(supports).to(device)
        with torch.no_grad():  # a learner turns gradients on for its own inner steps
            adaptation = _adapt(learner, start or params, support, counts)
        features = adaptation.features if start is None else None  # of another start they are other features
        embedded = embed_tasks(learner, params, support) if features is None else describe_features(features, support)
        embeddings = _take_embeddings(embedded, support.lanes)
        loss, accuracy = adaptation.loss.cpu(), adaptation.accuracy.cpu()
        states = split_state({name: tensor.cpu() for name, tensor in adaptation.state.items()})
        finite = _find_finite([loss, *adaptation.state.values()])
        curves = [[tuple(lane[: count + 1]) for lane, count in zip(each.tolist(), counts, strict=True)] for each in (loss, accuracy)]
        accuracies = curves[1] if learner.kind == "classification" else [()] * len(states)
        return [AdaptedLane(*lane) for lane in zip(states, curves[0], accuracies, finite, embeddings, strict=True)]

    return guard_memory(run, device, len(supports))


def predict_lanes(
    learner: Learner,
    params: Params,
    states: Sequence[State],
    queries: Sequence[Tensor],
    max_samples: int,
    confidence: Confidence = PLAIN,
    explained: Sequence[Support] = (),
) -> list[AnsweredLane]:
    """Answers every task's queries (n_query, *input_shape) by its own state, in batched forwards of about `max_samples` at most.

    confidence: how probabilities are read off the logits; the default is their softmax.
    explained: every task's support set, for answers with the weights of its examples; the learner must be one that Explains.
    Raises OutOfMemory.
    """
    device = _device_of(params)
    longest = max(len(lane) for lane in queries)
    sizes = [len(lane) for lane in queries]

    def run() -> list[AnsweredLane]:
        padded = _stack_queries(queries, longest)
        with torch.no_grad():
            columns = [column.to(device) for column in torch.split(padded, max(1, max_samples // len(queries)), dim=1)]
            outputs = torch.cat([_predict(learner, params, states, column) for column in columns], dim=1)
            answers, unknown = calibrate(outputs, confidence) if learner.kind == "classification" else (outputs, None)
            weights = _explain(learner, params, states, columns, stack_supports(explained).to(device)) if explained else None
            rows, unknowns = answers.cpu().numpy(), None if unknown is None else unknown.cpu().numpy()
        return [
            AnsweredLane(
                values=_own(rows[lane, :n_query, : _count_answers(states[lane])]),
                unknown=None if unknowns is None else _own(unknowns[lane, :n_query]),
                weights=None if weights is None else _own(weights[lane, :n_query, : explained[lane].inputs.shape[1]]),
            )
            for lane, n_query in enumerate(sizes)
        ]

    return guard_memory(run, device, len(queries))


def make_template(learner: Learner, params: Params) -> State:
    """The adapted state of a blank task of two examples: the names, types and shapes that every other state has.

    It costs one small adaptation, and warms the device up.
    """
    with torch.no_grad():
        return learner.adapt(params, _make_blank(learner, params)).state


def mixes_steps(learner: Learner, params: Params) -> bool:
    """Whether lanes of one batch may take different numbers of inner steps. It costs one small adaptation."""
    blank = _make_blank(learner, params)
    with torch.no_grad():
        return isinstance(learner, AdaptsEach) and learner.adapt_each(params, stack_supports([blank, blank]), [0, 1]) is not None


def _make_blank(learner: Learner, params: Params) -> Support:
    """A support set of two examples that show nothing."""
    inputs = torch.zeros(2, *learner.input_shape)
    is_classification = learner.kind == "classification"
    support = make_support(inputs, torch.arange(2), 2) if is_classification else make_support(inputs, torch.zeros(2, 1))
    return support.to(_device_of(params))


def _adapt(learner: Learner, params: Params, support: Support, steps: Sequence[int]) -> Adaptation:
    if len(set(steps)) == 1:
        return learner.adapt(params, support, steps[0])
    each = learner.adapt_each(params, support, steps) if isinstance(learner, AdaptsEach) else None
    if each is None:
        raise InvalidOptions(f"lanes of this learner take equal steps in a batch, got {sorted(set(steps))}")
    return each


def _find_finite(tensors: Sequence[Tensor]) -> list[bool]:
    """Which lanes have numbers only. By sums: one is infinite, too, where numbers are beyond all use."""
    sums = [tensor.flatten(1).sum(1) if tensor.is_contiguous() else tensor.sum(tuple(range(1, tensor.dim()))) for tensor in tensors]
    return [bool(lane) for lane in torch.stack([each.isfinite() for each in sums]).all(0).cpu()]


def _take_embeddings(embeddings: Tensor | None, lanes: int) -> Sequence[Tensor | None]:
    if embeddings is None:
        return [None] * lanes
    return [lane.clone() if bool(lane.isfinite().all()) else None for lane in embeddings.float().cpu()]


def _stack_queries(queries: Sequence[Tensor], longest: int) -> Tensor:
    """Every lane's queries, padded with zeros to the longest, (lanes, longest, *input_shape).

    numpy copies what is small without giving the interpreter away. torch gives it away in every call, and beside a busy thread each of
    them waits tens of microseconds to get it back; so whatever is done for each lane is numpy's.
    """
    first = queries[0].numpy()
    padded = np.zeros((len(queries), longest, *first.shape[1:]), first.dtype)
    for lane, mine in enumerate(queries):
        padded[lane, : len(mine)] = mine.numpy()
    return torch.from_numpy(padded)


def _predict(learner: Learner, params: Params, states: Sequence[State], queries: Tensor) -> Tensor:
    if isinstance(learner, PredictsEach):
        return learner.predict_each(params, states, queries)
    return learner.predict(params, states[0] if len(states) == 1 else stack_states(states), queries)


def _count_answers(state: State) -> int | None:
    """The classes of a lane; None where answers are not classes."""
    return state["class.mask"].shape[1] if "class.mask" in state else None


def _own(view: npt.NDArray[Any]) -> Tensor:
    """A copy: a view would keep the whole batch alive."""
    return torch.from_numpy(view.copy())


def _explain(learner: Learner, params: Params, states: Sequence[State], columns: Sequence[Tensor], support: Support) -> npt.NDArray[Any]:
    """(lanes, n_query, n_support) of queries that come in columns (lanes, n, *input_shape); of a class that was the answer's own."""
    if not isinstance(learner, Explains):
        raise InvalidOptions("this learner cannot say which support examples drove an answer")
    state = stack_states(states)
    return torch.cat([learner.explain(params, state, support, column) for column in columns], dim=1).cpu().numpy()


def guard_memory(run: Callable[[], T], device: torch.device, lanes: int) -> T:
    """The result of `run`; OutOfMemory, with the device's memory given back, where there was no room for it."""
    try:
        return run()
    except torch.OutOfMemoryError:
        pass  # raised below: inside this block the traceback would still hold the tensors of the failed batch
    if device.type == "cuda":
        torch.cuda.empty_cache()
    raise OutOfMemory(f"{device} has no room for a batch of {lanes} lanes")


def _device_of(params: Params) -> torch.device:
    return next(iter(params.values())).device
