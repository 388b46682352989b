"""MAML: learn initial weights from which a few gradient steps fit a new task (Finn et al. 2017, arXiv:1703.03400).

Every lane takes its own gradient steps, all lanes in one batch. For classification the head starts at zero rather than
at meta-learned rows (Kao et al. 2022, arXiv:2106.15367; Ye & Chao 2022, arXiv:2106.16245): no class is special before
the first example is seen, so permuting the classes permutes the answer, and any number of ways can be served.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from models.backbones import Backbone
from models.backbones.lanes import lane_linear
from models.errors import InvalidOptions
from models.learner import Adaptation, Kind
from models.methods.objectives import class_balanced_weights, cross_entropy, mask_absent_classes, squared_error, support_accuracy
from models.support import Params, State, Support

BODY = "body."
CLASS_WEIGHT, CLASS_BIAS, CLASS_MASK = "class.weight", "class.bias", "class.mask"
HEAD_WEIGHT, HEAD_BIAS = "head.weight", "head.bias"
LOG_SHARPNESS = "answer.log_sharpness"

# The inner loop is stable while inner_lr times the squared length of a feature stays near one; sharp answers want it larger.
# So the head reads features scaled to a squared length of about ten, and the answer has a meta-learned sharpness of its own.
# Without it the second step overshoots: 20-way 5-shot fell from 79.1 % after one step to 64.2 % after two (decision 6).
FEATURE_POWER = 20.0
INITIAL_SHARPNESS = 10.0


@dataclass(frozen=True)
class Maml:
    """Gradient-based adaptation of all weights.

    Meta-parameters are `body.*`, and `head.*` for regression or the answer's sharpness for classification; the adapted
    state holds each lane's own body and head.
    `first_order` drops the second derivatives of the outer gradient (FOMAML, section 5.2 of the paper).
    """

    kind: Kind
    backbone: Backbone
    inner_steps: int = 2
    inner_lr: float = 0.1
    first_order: bool = False
    n_out: int = 1

    def __post_init__(self) -> None:
        if self.inner_steps < 1 or not self.inner_lr > 0:
            raise InvalidOptions(f"maml needs inner_steps >= 1 and inner_lr > 0, got {self.inner_steps} and {self.inner_lr}")

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
        return params

    def adapt(self, params: Params, support: Support, steps: int | None = None, *, differentiable: bool = False) -> Adaptation:
        steps = self.inner_steps if steps is None else steps
        if steps < 0:
            raise InvalidOptions(f"steps must be at least 0, got {steps}")
        state = self._start(params, support, differentiable)
        curve = []
        for step in range(steps):
            state, loss, accuracy = self._descend(state, support, self._moving(params, state, step, support.lanes), differentiable)
            curve.append((loss, accuracy))
        with torch.no_grad():
            curve.append(self._measure(state, support)[1:])
        losses, accuracies = zip(*curve, strict=True)
        return Adaptation(self._to_lanes(params, state, support.lanes), torch.stack(losses, 1), torch.stack(accuracies, 1))

    def predict(self, params: Params, state: State, queries: Tensor) -> Tensor:
        outputs = self._outputs(state, queries)
        return outputs if self.kind == "regression" else outputs * params[LOG_SHARPNESS].exp()

    def _outputs(self, state: State, inputs: Tensor) -> Tensor:
        """What the inner loop descends on: logits of unit sharpness, or values."""
        body = {name.removeprefix(BODY): tensor for name, tensor in state.items() if name.startswith(BODY)}
        features = self.backbone.features(body, inputs)
        if self.kind == "regression":
            return lane_linear(features, state[HEAD_WEIGHT], state[HEAD_BIAS])
        features = features * math.sqrt(FEATURE_POWER / self.backbone.feature_dim)
        return mask_absent_classes(lane_linear(features, state[CLASS_WEIGHT], state[CLASS_BIAS]), state[CLASS_MASK])

    def _start(self, params: Params, support: Support, differentiable: bool) -> State:
        """The meta-parameters, and for classification a head of zeros. What no step has moved yet is shared by all lanes."""
        state = {name: tensor if differentiable else tensor.detach() for name, tensor in params.items() if name != LOG_SHARPNESS}
        if self.kind == "classification":
            state[CLASS_WEIGHT] = support.inputs.new_zeros(support.lanes, support.max_way, self.backbone.feature_dim)
            state[CLASS_BIAS] = support.inputs.new_zeros(support.lanes, support.max_way)
            state[CLASS_MASK] = support.class_mask
        return state

    def _to_lanes(self, params: Params, state: State, lanes: int) -> State:
        """`state` with a lane axis on every tensor, also on those that are still shared."""
        shared = {
            name: state[name].expand(lanes, *state[name].shape)
            for name in params
            if name != LOG_SHARPNESS and state[name].dim() == params[name].dim()
        }
        return {**state, **shared}

    def _moving(self, params: Params, state: State, step: int, lanes: int) -> State:
        """The tensors this step moves, with a lane axis: at step 0 of classification the head alone.

        Seen from a head of zeros the body's gradient is exactly zero, and so is its derivative, so it is not computed.
        """
        if step == 0 and self.kind == "classification":
            return {name: state[name] for name in (CLASS_WEIGHT, CLASS_BIAS)}
        return {name: tensor for name, tensor in self._to_lanes(params, state, lanes).items() if name != CLASS_MASK}

    def _measure(self, state: State, support: Support) -> tuple[Tensor, Tensor, Tensor]:
        """The sum over lanes to descend, and each lane's loss and accuracy for the curve, detached."""
        outputs = self._outputs(state, support.inputs)
        if self.kind == "regression":
            loss = squared_error(outputs, support)
            return loss.sum(), loss.detach(), torch.full_like(loss, torch.nan)
        weights = class_balanced_weights(support, outputs.dtype)
        objective = (cross_entropy(outputs, support.targets).where(support.mask, 0) * weights).sum(1)
        ways = support.class_mask.sum(1)
        return objective.sum(), (objective / ways).detach(), support_accuracy(outputs.detach(), support).to(outputs.dtype)

    def _descend(self, state: State, support: Support, moving: Params, differentiable: bool) -> tuple[State, Tensor, Tensor]:
        """One gradient step of the tensors in `moving` (laned), and the loss and accuracy before it."""
        with torch.enable_grad():
            leaves = {name: tensor if tensor.requires_grad else tensor.detach().requires_grad_() for name, tensor in moving.items()}
            objective, loss, accuracy = self._measure({**state, **leaves}, support)
            keep_graph = differentiable and not self.first_order
            gradients = torch.autograd.grad(objective, list(leaves.values()), create_graph=keep_graph, retain_graph=differentiable)
        origin = leaves if differentiable else moving
        moved = {name: origin[name] - self.inner_lr * gradient for name, gradient in zip(leaves, gradients, strict=True)}
        return {**state, **moved}, loss, accuracy
