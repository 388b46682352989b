"""A tiny ragged task for the solved heads, and the points that a head of classes sees, written out example by example."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.methods import build_learner
from models.methods.objectives import query_loss
from models.methods.solved_head import SolvedHead
from models.support import Params, Support, make_support

METHODS = ("logistic", "ridge", "svm")
SHOTS = (1, 3, 2, 1)
Array = NDArray[np.float64]


def build(method: str, width: int = 5, kind: str = "classification", **options: Any) -> SolvedHead:
    backbone = {"kind": "mlp", "hidden": [7, width]}
    learner = build_learner({"method": method, "kind": kind, "input_shape": [3], "backbone": backbone, **options})
    assert isinstance(learner, SolvedHead)
    return learner


def make_params(learner: SolvedHead, seed: int = 0) -> Params:
    """Fresh meta-parameters in float64, away from their neutral start."""
    generator = torch.Generator().manual_seed(seed)
    fresh = learner.init(generator)
    return {name: tensor.double() + 0.1 * torch.randn(tensor.shape, generator=generator) for name, tensor in fresh.items()}


def make_classes(shots: tuple[int, ...] = SHOTS, seed: int = 1, noise: float = 1.0) -> tuple[Support, Tensor]:
    """A support set with `shots[c]` examples around one place per class, and a query for each class."""
    generator = torch.Generator().manual_seed(seed)
    places = 3 * torch.randn(len(shots), 3, generator=generator, dtype=torch.float64)
    targets = torch.repeat_interleave(torch.arange(len(shots)), torch.tensor(shots))
    inputs = places[targets] + noise * torch.randn(len(targets), 3, generator=generator, dtype=torch.float64)
    return make_support(inputs, targets, len(shots)), places.unsqueeze(0)


@dataclass(frozen=True)
class Seen:
    """What scikit-learn gets: points (n, d) of the support set and of the queries, targets (n,), and each example's weight (n,)."""

    points: Array
    queries: Array
    targets: NDArray[np.int64]
    weights: Array


def see(learner: SolvedHead, params: Params, support: Support, queries: Tensor) -> Seen:
    """The points of one task on the sphere around its centre, in loops and numpy."""
    with torch.no_grad():
        features, asked = (learner.embed(params, inputs)[0].numpy() for inputs in (support.inputs, queries))
    targets = support.targets[0].numpy()
    classes = sorted(set(targets.tolist()))
    prior = float(np.exp(params["head.log_centre_weight"].item()))
    total = prior * params["head.centre"].numpy()
    for c in classes:
        total = total + features[targets == c].mean(0)
    centre = total / (len(classes) + prior)
    weights = [len(targets) / len(classes) / int((targets == t).sum()) for t in targets]
    points, places = ((rows - centre) / np.linalg.norm(rows - centre, axis=1, keepdims=True) for rows in (features, asked))
    return Seen(points, places, targets, np.array(weights))


def penalty_of(params: Params) -> float:
    return float(np.exp(params["head.log_penalty"].item()))


def sharpness_of(params: Params) -> float:
    return float(np.exp(params["head.log_sharpness"].item()))


def check_outer_gradient(learner: SolvedHead, params: Params) -> None:
    """Holds the gradient of the query loss in every meta-parameter to finite differences, and above zero."""
    support, queries = make_classes()
    if "head.log_c" in params:  # so small that some coefficients are at C, or it had no gradient
        params = {**params, "head.log_c": torch.tensor(-2.0, dtype=torch.float64)}
    params = {name: tensor.requires_grad_() for name, tensor in params.items()}

    def loss(*tensors: Tensor) -> Tensor:
        values = dict(zip(params, tensors, strict=True))
        state = learner.adapt(values, support, differentiable=True).state
        return query_loss("classification", learner.predict(values, state, queries), torch.arange(4)[None])[0]

    gradients = torch.autograd.grad(loss(*params.values()), list(params.values()))
    assert all(gradient.abs().sum() > 0 for gradient in gradients)
    assert torch.autograd.gradcheck(loss, tuple(params.values()), eps=1e-5, atol=1e-6, rtol=1e-5)


def check_float32(learner: SolvedHead) -> None:
    """Holds its answers in float32 to those in float64, and its states to float32."""
    params, (support, queries) = make_params(learner), make_classes()
    exact = learner.predict(params, learner.adapt(params, support).state, queries)
    single = {name: tensor.float() for name, tensor in params.items()}
    state = learner.adapt(single, support.to("cpu", torch.float32)).state
    assert all(tensor.dtype in (torch.float32, torch.bool) for tensor in state.values())
    torch.testing.assert_close(learner.predict(single, state, queries.float()).double(), exact, rtol=1e-3, atol=1e-3)
