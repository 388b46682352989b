"""parallel-metalearn's MAML around the plain network. Its modules are called with keywords that ours need not understand."""

from __future__ import annotations

from typing import Any

import torch
from metalearn.algorithms import MAML
from metalearn.inner_optimizers import InnerSGD
from metalearn.loss import CategoricalAccuracy, CrossEntropy
from metalearn.model_wrappers import MAML_Model
from torch import Tensor, nn

from benchmarks.few_shot import Problem
from benchmarks.plain_conv4 import PlainConv4
from models.methods.inner_loop import LOG_SHARPNESS


class KeywordConv4(PlainConv4):
    """The plain network, deaf to keywords."""

    def forward(self, inputs: Tensor, **_: Any) -> Tensor:
        return super().forward(inputs)


class Passing(nn.Module):
    """A head that has nothing to add: the plain network has one already."""

    def forward(self, logits: Tensor, **_: Any) -> Tensor:
        return logits


class SharpCrossEntropy(CrossEntropy):  # type: ignore[misc]  # the library has no types
    """The loss of the queries, which are answered with a meta-learned sharpness."""

    def __init__(self, log_sharpness: Tensor) -> None:
        super().__init__(metric_fn=CategoricalAccuracy())
        self.log_sharpness = nn.Parameter(log_sharpness.detach().clone())

    def forward(self, out_dict: dict[str, Tensor], targets: Any, **kwargs: Any) -> Any:
        return super().forward({**out_dict, "logits": out_dict["logits"] * self.log_sharpness.exp()}, targets, **kwargs)


def make_algorithm(problem: Problem, *, learn_sharpness: bool) -> Any:
    """MAML by this library; an outer optimizer that changes nothing, so that every step is the same. Its graph is second order."""
    plain = problem.make_plain()
    network = KeywordConv4(problem.backbone, problem.n_way).to(problem.inputs)
    network.load_state_dict(plain.state_dict())
    model = MAML_Model(backbone=network, head=Passing())
    inner = InnerSGD(model.get_fast_weights(), first_order=False, inner_lr=problem.lr, max_inner_steps=problem.steps, learn_lr=False)
    query_loss = SharpCrossEntropy(problem.params[LOG_SHARPNESS]) if learn_sharpness else None
    outer = [*model.parameters(), *(query_loss.parameters() if query_loss else ())]
    return MAML(
        model=model,
        optimizer=torch.optim.SGD(outer, lr=0.0),
        inner_optimizer=inner,
        support_loss_fn=CrossEntropy(metric_fn=CategoricalAccuracy()),
        query_loss_fn=query_loss,
        inner_steps=problem.steps,
        device=problem.inputs.device,
    )
