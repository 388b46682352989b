"""Where an inner step points: the gradient of the support loss in what the step moves."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from models.learner import BODY
from models.support import Params, State, Support


class Descending(Protocol):
    """What of a gradient-based learner is needed here; see `models.methods.inner_loop.GradientLearner`."""

    def features(self, params: Params, weights: Mapping[str, Tensor], inputs: Tensor) -> Tensor: ...

    def to_state(self, params: Params, weights: State, lanes: int) -> State: ...

    def divisor_of_body(self, support: Support) -> Tensor | None: ...

    def measure(self, params: Params, weights: State, support: Support, features: Tensor | None) -> tuple[Tensor, Tensor, Tensor]: ...


@dataclass(frozen=True)
class InnerPoint:
    """A point on the way of an inner loop: the weights there, and what the support set says of them.

    weights: what the inner loop adapts; a tensor that has moved has a leading lane axis, one that has not is shared by all lanes
    judge: each lane's support loss and accuracy with them, (lanes,), detached. A step has them anyway; after the last one the support
    set goes forward once more for them, so whoever does not ask does not pay
    features: of the support set under these weights (lanes, n, d), detached, where a step has looked at them; else None
    """

    weights: State
    judge: Callable[[], tuple[Tensor, Tensor]]
    features: Tensor | None = None


@dataclass(frozen=True)
class Look:
    """A support set through one body: the features, and the body's tensors that they can be differentiated in, with a lane axis.

    body: what `leaves` were made of, to tell whether another body would show anything else.
    """

    support: Support
    body: State
    leaves: State
    features: Tensor

    def shows(self, support: Support, weights: State) -> bool:
        """Whether this support set through the body in `weights` is the same sight."""
        return self.support is support and all(tensor is weights[name] for name, tensor in self.body.items())


@dataclass(frozen=True)
class Gradients:
    """The tensors that were differentiated in, and the gradient in each, with a lane axis; each lane's loss and accuracy there."""

    leaves: State
    by_name: State
    loss: Tensor
    accuracy: Tensor

    def judge(self) -> tuple[Tensor, Tensor]:
        return self.loss, self.accuracy


def look(learner: Descending, params: Params, weights: State, support: Support, last: Look | None) -> Look:
    """Takes the last look again where nothing has moved since: all steps of a method that keeps its body see the same features, and
    so do the first two where the first moves only the head."""
    if last is not None and last.shows(support, weights):
        return last
    body = {name: tensor for name, tensor in weights.items() if name.startswith(BODY)}
    leaves = _to_leaves(learner.to_state(params, body, support.lanes))
    with torch.enable_grad():
        return Look(support, body, leaves, learner.features(params, {**weights, **leaves}, support.inputs))


def differentiate(
    learner: Descending, params: Params, weights: State, moving: State, seen: Look, *, create_graph: bool, retain_graph: bool
) -> Gradients:
    """With `create_graph` the gradients can be differentiated themselves. moving: laned, of `weights`."""
    body = {name: seen.leaves[name] for name in moving if name in seen.leaves}
    head = {name: _to_leaf(tensor) for name, tensor in moving.items() if name not in body}
    with torch.enable_grad():
        features = _see_anew(seen.features, keeps_graph=create_graph or retain_graph)
        objective, loss, accuracy = learner.measure(params, {**weights, **head, **body}, seen.support, features)
        aims = [*head.values(), *([features] if body else [])]
        found = list(torch.autograd.grad(objective, aims, create_graph=create_graph, retain_graph=retain_graph))
        if body:
            upstream = _divide(found.pop(), learner.divisor_of_body(seen.support))
            found += torch.autograd.grad(seen.features, list(body.values()), upstream, create_graph=create_graph, retain_graph=retain_graph)
    return Gradients({**head, **body}, dict(zip([*head, *body], found, strict=True)), loss, accuracy)


def judge(learner: Descending, params: Params, weights: State, support: Support, last: Look | None) -> tuple[Tensor, Tensor]:
    """Each lane's loss and accuracy where no step is taken; the last look saves another where nothing has moved since."""
    with torch.no_grad():
        features = last.features if last is not None and last.shows(support, weights) else None
        _, loss, accuracy = learner.measure(params, weights, support, features)
    return loss, accuracy


def _see_anew(features: Tensor, *, keeps_graph: bool) -> Tensor:
    """The same features as a tensor of this step's own: the head may have been moved by them before, which is not this step's slope."""
    return features.view_as(features) if keeps_graph else features.detach().requires_grad_()


def _divide(gradient: Tensor, divisor: Tensor | None) -> Tensor:
    """By one number a lane."""
    return gradient if divisor is None else gradient / divisor.view(-1, *[1] * (gradient.dim() - 1))


def _to_leaves(tensors: State) -> State:
    return {name: _to_leaf(tensor) for name, tensor in tensors.items()}


def _to_leaf(tensor: Tensor) -> Tensor:
    return tensor if tensor.requires_grad else tensor.detach().requires_grad_()
