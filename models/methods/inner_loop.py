"""The gradient-based family: every lane descends on its own support set, all lanes in one batch (Finn et al. 2017, arXiv:1703.03400).

A method of the family is a small class that overrides hooks of `GradientLearner`: where the head starts, what moves, by which rule.
For classification the head is not meta-learned (Kao et al. 2022, arXiv:2106.15367; Ye & Chao 2022, arXiv:2106.16245): no class is
special before the first example is seen, so permuting the classes permutes the answer, and any number of ways can be served.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from models.backbones import Backbone, lay_out
from models.backbones.lanes import lane_linear
from models.episodes.episode import EpisodeBatch
from models.errors import InvalidOptions
from models.learner import BODY, Adaptation, Kind, RowHead, take_body
from models.methods import inner_gradient
from models.methods.class_head import CLASS_BIAS, CLASS_MASK, CLASS_WEIGHT, find_scale, prototype_head
from models.methods.gradient_similarity import compare_answers, compare_values
from models.methods.inner_gradient import InnerPoint
from models.methods.inner_native import descend_natively
from models.methods.objectives import class_balanced_loss, mask_absent_classes, query_loss, squared_error, support_accuracy
from models.support import Params, State, Support, own_state

HEAD_WEIGHT, HEAD_BIAS = "head.weight", "head.bias"
LOG_SHARPNESS = "answer.log_sharpness"

INITIAL_SHARPNESS = 10.0


@dataclass(frozen=True)
class GradientLearner:
    """A backbone and a linear head, of which gradient steps on the support set move a part.

    Meta-parameters are `body.*`; `head.*` for regression or the answer's sharpness for classification; and the method's own.
    The adapted state holds what the inner loop moves, for classification the head in any case.
    first_order: the outer gradient drops second derivatives (FOMAML, section 5.2 of the paper).
    body_objective: the inner loss is a sum over classes. With `mean` the body's gradient is divided by the ways, the head's is not:
    a row of the head hears mostly of its own class, whereas the body hears of all of them, and at 20 ways it overshoots (decision 6).
    """

    kind: Kind
    backbone: Backbone
    inner_steps: int = 2
    inner_lr: float = 0.1
    first_order: bool = False
    n_out: int = 1
    body_objective: Literal["sum", "mean"] = "sum"

    starts_at_prototypes: ClassVar[bool] = False
    """Whether the class head starts as the classifier by the support set's prototypes under the initial body."""

    def __post_init__(self) -> None:
        if self.inner_steps < 1 or not 0 < self.inner_lr < math.inf:
            raise InvalidOptions(f"inner_steps >= 1 and inner_lr > 0 are needed, got {self.inner_steps} and {self.inner_lr}")
        if self.body_objective not in ("sum", "mean"):
            raise InvalidOptions(f"body_objective must be sum or mean, got {self.body_objective!r}")
        if self.body_objective == "mean" and self.kind == "regression":
            raise InvalidOptions("body_objective is for classification; in regression there is no sum over classes")

    # What a method of the family overrides.

    def extra_params(self, params: Params, generator: torch.Generator) -> Params:
        """The method's own meta-parameters, given the others as `init` has drawn them."""
        return {}

    def start_head(self, params: Params, support: Support) -> tuple[Tensor, Tensor]:
        """The class head before the first step, weight (lanes, max_way, d) and bias (lanes, max_way): zeros, or by the prototypes."""
        if self.starts_at_prototypes:
            return prototype_head(self.scale(self.features(params, {}, support.inputs)), support)
        weight = support.inputs.new_zeros(support.lanes, support.max_way, self.backbone.feature_dim)
        return weight, weight.new_zeros(support.lanes, support.max_way)

    def adapts(self, name: str) -> bool:
        """Whether the inner loop ever moves this tensor. When no tensor of the body moves, features are computed once."""
        return True

    def moves(self, step: int, name: str) -> bool:
        """Whether this step moves this tensor.

        Seen from a head of zeros the body's gradient is exactly zero, and so is its derivative, so the first step of
        classification does not compute it. A method with another `start_head`, or another reason to move, says so here.
        """
        return self.adapts(name) and not (step == 0 and self.kind == "classification" and name.startswith(BODY))

    def prepare(self, params: Params, step: int, weights: State) -> State:
        """The weights as this step is to see them, for a method that sets some of them by the step rather than by the gradient."""
        return weights

    def pull(self, params: Params, name: str, tensor: Tensor) -> Tensor | None:
        """The gradient in `tensor` ([lanes,] ...) of a term that the method adds to the inner objective, if it has one."""
        return None

    def rate(self, params: Params, step: int, name: str) -> float | Tensor:
        """What the update rule multiplies a tensor's gradient by in this step: one number, or one for each of the tensor's. A method that
        overrides no rule but this runs in C where its backbone does."""
        return self.inner_lr

    def update(self, params: Params, step: int, name: str, tensor: Tensor, gradient: Tensor, memory: Any) -> tuple[Tensor, Any]:
        """The update rule: `tensor` (lanes, ...) after the step, and what the rule wants to find in `memory` at the next one.
        `memory` is None at the tensor's first step, and no part of the adapted state."""
        rate = self.rate(params, step, name)
        return tensor - rate * gradient if isinstance(rate, Tensor) else torch.sub(tensor, gradient, alpha=rate), None

    # The protocol of models.learner.

    @property
    def input_shape(self) -> tuple[int, ...]:
        return self.backbone.input_shape

    @property
    def default_steps(self) -> int:
        return self.inner_steps

    def init(self, generator: torch.Generator) -> Params:
        params = {BODY + name: tensor for name, tensor in self.backbone.init(generator).items()}
        if self.kind == "classification":
            params[LOG_SHARPNESS] = torch.tensor(math.log(INITIAL_SHARPNESS))
        if self.kind == "regression":
            width = self.backbone.feature_dim
            params[HEAD_WEIGHT] = torch.randn(self.n_out, width, generator=generator) / math.sqrt(width)
            params[HEAD_BIAS] = torch.zeros(self.n_out)
        return {**params, **self.extra_params(params, generator)}

    def adapt(self, params: Params, support: Support, steps: int | None = None, *, differentiable: bool = False) -> Adaptation:
        steps = self.default_steps if steps is None else steps
        if not differentiable and (native := self.adapt_each(params, support, [steps] * support.lanes)) is not None:
            return native
        points = self.descend(params, support, steps, differentiable=differentiable, first_order=self.first_order)
        first = last = next(points)
        curve = [first.judge()]
        for last in points:
            curve.append(last.judge())
        losses, accuracies = zip(*curve, strict=True)
        state = self.to_state(params, last.weights, support.lanes)
        if not differentiable:
            state = own_state(state, [*params.values(), support.class_mask])  # law 4
        return Adaptation(state, torch.stack(losses, 1), torch.stack(accuracies, 1), first.features)

    def adapt_each(self, params: Params, support: Support, steps: Sequence[int]) -> Adaptation | None:
        if self.kind == "regression" or min(steps, default=0) < 0 or not _descends_plainly(type(self)):
            return None
        params = {name: tensor.detach() if tensor.requires_grad else tensor for name, tensor in params.items()}
        found = descend_natively(self, params, support, steps)
        if found is None:
            return None
        state = {BODY + name: found.body[name] for name in take_body(params) if name in found.body} if found.body else {}
        state |= {CLASS_WEIGHT: found.weight, CLASS_BIAS: found.bias, CLASS_MASK: support.class_mask.clone()}
        return Adaptation(state, found.loss, found.accuracy, found.features)

    def meta_loss(self, params: Params, batch: EpisodeBatch, progress: float) -> tuple[Tensor, float]:
        """The mean loss on the queries after adaptation, as for any learner, but without the end of the curve, for which nobody asks.

        A method with an `adapt` of its own has one of these, too: `objectives.adapted_loss`.
        """
        *_, last = self.descend(params, batch.support, self.default_steps, differentiable=True, first_order=self.first_order)
        state = self.to_state(params, last.weights, batch.support.lanes)
        return query_loss(self.kind, self.predict(params, state, batch.query_inputs), batch.query_targets)

    def predict(self, params: Params, state: State, queries: Tensor) -> Tensor:
        return self.sharpen(params, self.outputs(params, state, queries))

    def row_head(self, params: Params) -> RowHead:
        """A method with another `read` than this has another of these."""
        one, is_regression = torch.ones(1, dtype=torch.float64), self.kind == "regression"
        names = (HEAD_WEIGHT, HEAD_BIAS) if is_regression else (CLASS_WEIGHT, CLASS_BIAS)
        scale = 1.0 if is_regression else self.scale(one).item()
        return RowHead(*names, scale=scale, sharpness=self.sharpen(params, one).item())

    def embed(self, params: Params, inputs: Tensor) -> Tensor:
        return self.features(params, {}, inputs)

    def restart(self, params: Params, state: State) -> Params:
        return {name: state[name][0] if name in state else tensor for name, tensor in params.items()}

    def explain(self, params: Params, state: State, support: Support, queries: Tensor) -> Tensor:
        """Gradient similarity in the last layer (see `models.methods.gradient_similarity`). For regression seen from where the
        inner loop started, since after it the errors on the support set are nearly gone; the query's aim is its answer."""
        seen_by = state if self.kind == "classification" else {}
        outputs = [self.outputs(params, seen_by, inputs) for inputs in (support.inputs, queries)]
        features = [self.features(params, seen_by, inputs) for inputs in (support.inputs, queries)]
        if self.kind == "classification":
            return compare_answers(support, outputs[0], outputs[1], self.scale(features[0]), self.scale(features[1]))
        return compare_values(support, outputs[0], outputs[1] - self.outputs(params, state, queries), features[0], features[1])

    # The inner loop.

    def descend(
        self,
        params: Params,
        support: Support,
        steps: int,
        *,
        differentiable: bool = False,
        first_order: bool = False,
        parts: Sequence[Support] = (),
    ) -> Iterator[InnerPoint]:
        """The steps + 1 points of the inner loop, the start and the end among them; only one is held at a time.
        With `differentiable` their weights keep the graph to `params`, without second derivatives when `first_order`.
        parts: what the steps see in turn instead of the whole support set, as with minibatches; the same lanes and classes."""
        if steps < 0:
            raise InvalidOptions(f"steps must be at least 0, got {steps}")
        params = params if differentiable else {name: tensor.detach() for name, tensor in params.items()}
        weights, memory = self._start(params, support), dict[str, Any]()
        seen: inner_gradient.Look | None = None
        for step in range(steps):
            taken, weights, part = weights, self.prepare(params, step, weights), parts[step % len(parts)] if parts else support
            laned = self.to_state(params, weights, support.lanes)
            moving = {name: tensor for name, tensor in laned.items() if name != CLASS_MASK and self.moves(step, name)}
            seen = inner_gradient.look(self, params, weights, part, seen)
            found = inner_gradient.differentiate(
                self, params, weights, moving, seen, create_graph=differentiable and not first_order, retain_graph=differentiable
            )
            yield InnerPoint(taken, found.judge, seen.features.detach() if seen.shows(support, taken) else None)
            start = found.leaves if differentiable else moving
            weights = {**weights, **self._move(params, step, start, found.by_name, memory)}
        yield InnerPoint(weights, partial(inner_gradient.judge, self, params, weights, support, seen))

    def features(self, params: Params, weights: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
        """(lanes, n, d), by the body in `weights`, or that in `params` when `weights` have none."""
        return self.backbone.features(self.take_body(params, weights), inputs)

    def take_body(self, params: Params, weights: Mapping[str, Tensor]) -> Params:
        """The backbone's parameters: those in `weights`, or in `params` where `weights` have none."""
        return take_body({name: weights.get(name, tensor) for name, tensor in params.items()})

    def scale(self, features: Tensor) -> Tensor:
        """Features as the class head reads them."""
        return features * find_scale(self.backbone.feature_dim)

    def outputs(self, params: Params, weights: State, inputs: Tensor) -> Tensor:
        """What the inner loop descends on: logits of unit sharpness, or values."""
        return self.read(params, weights, self.features(params, weights, inputs))

    def sharpen(self, params: Params, outputs: Tensor) -> Tensor:
        """The answer that `outputs` stand for."""
        return outputs if self.kind == "regression" else outputs * params[LOG_SHARPNESS].exp()

    def read(self, params: Params, weights: State, features: Tensor) -> Tensor:
        """What the head makes of features (lanes, n, d)."""
        if self.kind == "regression":
            return lane_linear(features, *(weights.get(name, params[name]) for name in (HEAD_WEIGHT, HEAD_BIAS)))
        return mask_absent_classes(lane_linear(self.scale(features), weights[CLASS_WEIGHT], weights[CLASS_BIAS]), weights[CLASS_MASK])

    def measure(self, params: Params, weights: State, support: Support, features: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """The sum over lanes to descend, and each lane's loss and accuracy for the curve, detached.
        `features` of the support set save the way through the body."""
        outputs = self.outputs(params, weights, support.inputs) if features is None else self.read(params, weights, features)
        if self.kind == "regression":
            loss = squared_error(outputs, support)
            return loss.sum(), loss.detach(), torch.full_like(loss, torch.nan)
        objective = class_balanced_loss(outputs, support)
        ways = support.class_mask.sum(1)
        return objective.sum(), (objective / ways).detach(), support_accuracy(outputs.detach(), support).to(outputs.dtype)

    def to_state(self, params: Params, weights: State, lanes: int) -> State:
        """`weights` with a lane axis on every tensor, also on those that no step has moved."""
        shared = {name for name, tensor in weights.items() if name in params and tensor.dim() == params[name].dim()}
        return {name: tensor.expand(lanes, *tensor.shape) if name in shared else tensor for name, tensor in weights.items()}

    def _start(self, params: Params, support: Support) -> State:
        """What the inner loop adapts, as the meta-parameters have it, and for classification the head."""
        body = {name: tensor for name, tensor in lay_out(self.backbone, take_body(params)).items() if self.adapts(BODY + name)}
        weights = {BODY + name: tensor for name, tensor in body.items()}
        weights |= {name: params[name] for name in params if name.startswith("head.") and self.adapts(name)}
        if self.kind == "classification":
            weights[CLASS_WEIGHT], weights[CLASS_BIAS] = self.start_head(params, support)
            weights[CLASS_MASK] = support.class_mask
        return weights

    def divisor_of_body(self, support: Support) -> Tensor | None:
        """What the body's gradient is divided by in each lane, where that is not one."""
        return support.class_mask.sum(1) if self.body_objective == "mean" else None

    def _move(self, params: Params, step: int, weights: Params, gradients: Params, memory: dict[str, Any]) -> Params:
        """`weights` (laned) after a step; writes to `memory`."""
        moved = {}
        for name, tensor in weights.items():
            pull = self.pull(params, name, tensor)
            gradient = gradients[name] if pull is None else gradients[name] + pull
            moved[name], memory[name] = self.update(params, step, name, tensor, gradient, memory.get(name))
        return moved


def _descends_plainly(method: type[Any]) -> bool:
    """Whether a class leaves everything as it is that `descend_natively` takes for granted."""
    granted = ["prepare", "pull", "update", "descend", "features", "take_body", "scale", "outputs", "read", "measure", "divisor_of_body"]
    granted += ["start_head"] if method.starts_at_prototypes else []
    return all(getattr(method, name) is getattr(GradientLearner, name) for name in granted)
