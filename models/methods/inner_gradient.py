"""Where an inner step points: the gradient of the support loss in what the step moves.

Two ways to the same numbers. Autograd, which meta-training can differentiate again; and, where nobody will, autograd as far as the
features and from there the backbone's own derivative (`models.backbones.tracing`), which keeps no graph of the body.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from models.backbones import Backbone
from models.backbones.tracing import Traces
from models.learner import BODY, take_body
from models.support import Params, State, Support


class Descending(Protocol):
    """What of a gradient-based learner is needed here; see `models.methods.inner_loop.GradientLearner`."""

    @property
    def backbone(self) -> Backbone: ...

    def adapts(self, name: str) -> bool: ...

    def take_body(self, params: Params, weights: Mapping[str, Tensor]) -> Params: ...

    def features(self, params: Params, weights: Mapping[str, Tensor], inputs: Tensor) -> Tensor: ...

    def divisor_of_body(self, support: Support) -> Tensor | None: ...

    def measure(self, params: Params, weights: State, support: Support, features: Tensor | None) -> tuple[Tensor, Tensor, Tensor]: ...


@dataclass(frozen=True)
class Opened:
    """The inputs of a support set, made ready for a backbone that traces."""

    backbone: Traces
    inputs: Tensor


@dataclass(frozen=True)
class View:
    """A support set as the steps see it: with its features where no step moves the body, opened where the backbone traces."""

    support: Support
    features: Tensor | None = None
    opened: Opened | None = None


@dataclass(frozen=True)
class Gradients:
    """The tensors that were differentiated in, and the gradient in each, with a lane axis; each lane's loss and accuracy there."""

    leaves: State
    by_name: State
    loss: Tensor
    accuracy: Tensor


def view(learner: Descending, params: Params, support: Support, *, traced: bool) -> View:
    """`traced` asks for the backbone's own derivative, which is there for a CPU: on a GPU it was not measured, and autograd stays."""
    backbone = learner.backbone
    if not any(learner.adapts(name) for name in params if name.startswith(BODY)):
        return View(support, features=learner.features(params, {}, support.inputs))
    if traced and support.inputs.device.type == "cpu" and isinstance(backbone, Traces) and backbone.can_trace:
        return View(support, opened=Opened(backbone, backbone.open(support.inputs)))
    return View(support)


def lay_out(weights: State, seen: View) -> State:
    """The body's weights, in memory the way the trace reads them fastest; nothing where it is not used."""
    if seen.opened is None:
        return {}
    return {BODY + name: tensor for name, tensor in seen.opened.backbone.lay_out(take_body(weights)).items()}


def differentiate(
    learner: Descending, params: Params, weights: State, moving: State, seen: View, *, create_graph: bool, retain_graph: bool
) -> Gradients:
    """By autograd; with `create_graph` the gradients can be differentiated themselves. moving: laned, of `weights`."""
    with torch.enable_grad():
        leaves = {name: tensor if tensor.requires_grad else tensor.detach().requires_grad_() for name, tensor in moving.items()}
        objective, loss, accuracy = learner.measure(params, {**weights, **leaves}, seen.support, seen.features)
        found = torch.autograd.grad(objective, list(leaves.values()), create_graph=create_graph, retain_graph=retain_graph)
    divisor = learner.divisor_of_body(seen.support)
    by_name = {
        name: gradient if divisor is None or not name.startswith(BODY) else gradient / _spread(divisor, gradient)
        for name, gradient in zip(leaves, found, strict=True)
    }
    return Gradients(leaves, by_name, loss, accuracy)


def trace(learner: Descending, params: Params, weights: State, moving: State, support: Support, opened: Opened) -> Gradients:
    """The same without a graph of the body."""
    head = {name: tensor.detach().requires_grad_() for name, tensor in moving.items() if not name.startswith(BODY)}
    with torch.no_grad():
        features, pull_back = opened.backbone.trace(learner.take_body(params, weights), opened.inputs)
    with torch.enable_grad():
        features.requires_grad_()
        objective, loss, accuracy = learner.measure(params, {**weights, **head}, support, features)
        *found, upstream = torch.autograd.grad(objective, [*head.values(), features])
    divisor = learner.divisor_of_body(support)
    with torch.no_grad():
        body = pull_back(upstream if divisor is None else upstream / _spread(divisor, upstream))
    by_name = dict(zip(head, found, strict=True)) | {BODY + name: gradient for name, gradient in body.items() if BODY + name in moving}
    return Gradients(moving, by_name, loss, accuracy)


def see(learner: Descending, params: Params, weights: State, seen: View) -> Tensor | None:
    """The features of the support set under `weights`, where there is a shorter way to them than the learner's own."""
    has_moved = any(weights[name].dim() > params[name].dim() for name in weights if name.startswith(BODY))
    if seen.opened is None or not has_moved:
        return seen.features
    return seen.opened.backbone.run(learner.take_body(params, weights), seen.opened.inputs)


def _spread(number: Tensor, gradient: Tensor) -> Tensor:
    """One number a lane, beside a gradient of any shape."""
    return number.view(-1, *[1] * (gradient.dim() - 1))
