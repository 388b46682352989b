"""Many tasks in one call: ragged support sets in, one adapted state per task out, as a server needs them.

The learner sees one padded, masked batch; the caller sees lanes. Everything here blocks; call it from the thread that owns the device.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from models.errors import InvalidOptions, OutOfMemory
from models.learner import Adaptation, AdaptsEach, Learner
from models.support import Params, State, Support, make_support, split_state, stack_supports
from models.task_embedding import describe_features, embed_tasks

T = TypeVar("T")

MOST_ALONE = 1 << 17
"""Numbers of a tensor on the host that one thread sums up. From 32,768 on torch wakes its others, and where other processes have their core
it waits for them: sums of 10 us took up to 8 ms (two cores of an AMD EPYC, 2026-11-21)."""


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
    floats = [tensor for tensor in tensors if tensor.is_floating_point()]
    if all(tensor.is_cpu and tensor.numel() <= MOST_ALONE for tensor in floats):
        with np.errstate(all="ignore"):
            alone = np.stack([tensor.numpy().sum(tuple(range(1, tensor.dim()))) for tensor in floats])
        return [bool(lane) for lane in np.isfinite(alone).all(0)]
    sums = [tensor.flatten(1).sum(1) if tensor.is_contiguous() else tensor.sum(tuple(range(1, tensor.dim()))) for tensor in floats]
    finite: list[bool] = torch.stack(sums).isfinite().all(0).tolist()
    return finite


def _take_embeddings(embeddings: Tensor | None, lanes: int) -> Sequence[Tensor | None]:
    if embeddings is None:
        return [None] * lanes
    rows = embeddings.float().cpu().numpy()
    finite = np.isfinite(rows).all(1).tolist()
    return [torch.from_numpy(row.copy()) if is_finite else None for row, is_finite in zip(rows, finite, strict=True)]


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
