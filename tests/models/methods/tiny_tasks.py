"""Tiny few-shot problems in float64, and the gradient-based family's inner loop written out for one task with plain autograd."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from models.learner import Learner
from models.support import Params, Support, make_support


def make_params(learner: Learner, seed: int = 0) -> Params:
    generator = torch.Generator().manual_seed(seed)
    return {name: tensor.double().requires_grad_() for name, tensor in learner.init(generator).items()}


def make_task(learner: Learner, shots: tuple[int, ...], seed: int) -> tuple[Support, Tensor, Tensor]:
    """A support set with `shots[c]` examples of class c (as many points for regression), and a query and its answer a class."""
    generator = torch.Generator().manual_seed(seed)

    def draw(count: int) -> Tensor:
        return torch.rand(count, *learner.input_shape, generator=generator, dtype=torch.float64)

    if learner.kind == "regression":
        targets, answers = (torch.randn(n, 1, generator=generator, dtype=torch.float64) for n in (sum(shots), len(shots)))
        return make_support(draw(sum(shots)), targets), draw(len(shots)), answers
    targets = torch.repeat_interleave(torch.arange(len(shots)), torch.tensor(shots))
    return make_support(draw(sum(shots)), targets, len(shots)), draw(len(shots)), torch.arange(len(shots))


def golden_outputs(learner: Learner, params: Params) -> Tensor:
    """Answers (3, 3) in the episode whose outputs the tests keep."""
    support, queries, _ = make_task(learner, (1, 2, 1), seed=8)
    return learner.predict(params, learner.adapt(params, support).state, queries[None])[0]


def outer_loss(outputs: Tensor, answers: Tensor) -> Tensor:
    return F.mse_loss(outputs, answers) if answers.is_floating_point() else F.cross_entropy(outputs, answers)


def query_loss_of(learner: Learner, params: Params, task: tuple[Support, Tensor, Tensor]) -> Tensor:
    """The meta-loss of one task, with its graph to `params`."""
    support, queries, answers = task
    state = learner.adapt(params, support, differentiable=True).state
    return outer_loss(learner.predict(params, state, queries.unsqueeze(0))[0], answers)


def is_gradient_of_differences(learner: Learner, params: Params, task: tuple[Support, Tensor, Tensor]) -> bool:
    """Whether the meta-gradient in every meta-parameter is the one of finite differences; raises when it is not."""

    def loss(*tensors: Tensor) -> Tensor:
        return query_loss_of(learner, dict(zip(params, tensors, strict=True)), task)

    return torch.autograd.gradcheck(loss, tuple(params.values()), eps=1e-6, atol=1e-6)


def embed_by_hand(weights: Params, inputs: Tensor) -> Tensor:
    """An MLP of one hidden layer, inputs (n, d_in) to features (n, d) as the head reads them in classification."""
    features = F.relu(F.linear(inputs, weights["body.linear1.weight"], weights["body.linear1.bias"]))
    return features * (20 / features.shape[1]) ** 0.5 if "class.weight" in weights or "head.weight" not in weights else features


def answer_by_hand(weights: Params, inputs: Tensor) -> Tensor:
    head = "class" if "class.weight" in weights else "head"
    return F.linear(embed_by_hand(weights, inputs), weights[f"{head}.weight"], weights[f"{head}.bias"])


def objective_by_hand(weights: Params, support: Support) -> Tensor:
    """Cross entropy, the mean of each class summed over classes; or the mean squared error."""
    outputs, targets = answer_by_hand(weights, support.inputs[0]), support.targets[0]
    if targets.is_floating_point():
        return F.mse_loss(outputs, targets)
    return sum((F.cross_entropy(outputs[targets == c], targets[targets == c]) for c in range(support.max_way)), torch.zeros(()))


def descend_by_hand(weights: Params, moving: set[str], support: Support, steps: int, rate: Callable[[str], Tensor | float]) -> Params:
    """Second-order gradient steps of the tensors in `moving`, each by its own rate.

    The start is cloned: a head that was made of the body must not carry gradients back to it inside the loop.
    """
    weights = {name: tensor.clone() if tensor.requires_grad else tensor.requires_grad_() for name, tensor in weights.items()}
    for _ in range(steps):
        names = sorted(moving)
        gradients = torch.autograd.grad(objective_by_hand(weights, support), [weights[n] for n in names], create_graph=True)
        weights = {**weights, **{n: weights[n] - rate(n) * g for n, g in zip(names, gradients, strict=True)}}
    return weights


def prototypes_by_hand(params: Params, support: Support) -> tuple[Tensor, Tensor]:
    """Weight and bias of the linear layer that ranks by squared distance to the class means."""
    features, targets = embed_by_hand(params, support.inputs[0]), support.targets[0]
    centres = torch.stack([features[targets == c].mean(0) for c in range(support.max_way)])
    return 2 * centres, -(centres**2).sum(1)
