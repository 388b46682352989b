"""Another task's adapted weights as the place to start from, and whether that pays: held out of the task's own support set.

Starting near a similar task is transfer learning between tasks, and it can hurt; so both starts adapt to the same part of the support
set and are asked for the rest (`models.holdout`). What the other task was adapted to is never held out: its weights know the answers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from safetensors import SafetensorError
from safetensors.torch import load, save

from models.confidence import Confidence
from models.errors import IncompatibleState, InvalidOptions
from models.holdout import MAX_SCORED_EXAMPLES, HeldOutScore, score_support_set
from models.learner import Learner, Restarts
from models.support import Params, State, Support


@dataclass(frozen=True)
class StartTrial:
    """Meta-parameters with other initial weights, and the held-out loss from the usual ones and from these.

    n_held_out is 0, and both losses NaN, when nothing could be held out; a loss is infinite where the inner loop diverged.
    """

    start: Params
    cold: float
    warm: float
    n_held_out: int


def try_start(
    learner: Learner,
    params: Params,
    state: State,
    support: Support,
    fresh: Sequence[bool],
    steps: int,
    confidence: Confidence,
    max_samples: int = MAX_SCORED_EXAMPLES,
) -> StartTrial:
    """Compares starting from `params` with starting from another task's `state`, on a support set of one lane.

    fresh: which examples may be held out; the others are neither shown nor asked for in the folds that would hold them out, so that both
    starts adapt to the same. Cost: twice that of `score_support_set`, in batches of `max_samples` examples. Raises InvalidOptions.
    """
    if not isinstance(learner, Restarts):
        raise InvalidOptions("this learner cannot start from the weights of another task")
    start = learner.restart(params, state)
    cold, warm = (score_support_set(learner, weights, support, steps, confidence, max_samples, fresh) for weights in (params, start))
    return StartTrial(start, _loss(cold), _loss(warm), cold.n)


def _loss(score: HeldOutScore) -> float:
    return math.inf if score.n and not math.isfinite(score.loss) else score.loss


def encode_params(params: Params) -> bytes:
    """Meta-parameters as safetensors bytes; the same ones give the same bytes."""
    return save({name: tensor.detach().cpu().contiguous() for name, tensor in params.items()})


def decode_params(encoded: bytes, model: Params) -> Params:
    """Meta-parameters on the device of `model`. Raises IncompatibleState unless names, types and shapes are the model's, all finite."""
    try:
        params = load(encoded)
    except SafetensorError as fault:
        raise IncompatibleState(f"the starting weights are not safetensors: {fault}") from fault
    if {name: (t.dtype, t.shape) for name, t in params.items()} != {name: (t.dtype, t.shape) for name, t in model.items()}:
        raise IncompatibleState(f"the starting weights are {sorted(params)} in other shapes or types than {sorted(model)}")
    if not all(bool(tensor.isfinite().all()) for tensor in params.values()):
        raise IncompatibleState("the starting weights hold numbers that are not finite")
    return {name: tensor.to(model[name].device) for name, tensor in params.items()}
