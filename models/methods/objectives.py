"""What the inner loop descends and what it reports, per lane, blind to padding."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from models.episodes.episode import EpisodeBatch
from models.learner import Kind, Learner
from models.support import Params, Support


def mask_absent_classes(logits: Tensor, class_mask: Tensor) -> Tensor:
    """logits (lanes, n, max_way) with minus infinity where `class_mask` (lanes, max_way) is False."""
    return logits.masked_fill(~class_mask.unsqueeze(1), -torch.inf)


def class_balanced_weights(support: Support, dtype: torch.dtype) -> Tensor:
    """Weight of each example, (lanes, n_support): one over its class's count, zero for padding. Sums to the number of ways.

    With equal shots this is "cross entropy divided by K, summed" of the authors' MAML code; with ragged shots no class
    outweighs another, and the size of the step does not depend on the number of ways.
    """
    mask = support.mask.to(dtype)
    counts = mask.new_zeros(support.lanes, support.max_way).scatter_add_(1, support.targets, mask)
    return mask / counts.gather(1, support.targets).clamp(min=1)


def spread_by_class(numbers: Tensor, support: Support) -> Tensor:
    """Each example's number in the column of its class, (lanes, n_support) to (lanes, n_support, max_way); zeros elsewhere."""
    columns = numbers.new_zeros(*numbers.shape, support.max_way)
    return columns.scatter_(2, support.targets.unsqueeze(2), numbers.unsqueeze(2))


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Per-example cross entropy (lanes, n) of logits (lanes, n, max_way) that may hold minus infinity."""
    return -F.log_softmax(logits, dim=-1).gather(-1, targets.unsqueeze(-1)).squeeze(-1)


def class_balanced_loss(logits: Tensor, support: Support, weights: Tensor | None = None) -> Tensor:
    """Cross entropy of each lane's examples, (lanes,), each class weighing one; differentiable.
    weights: the class-balanced ones, where they are known already."""
    weights = class_balanced_weights(support, logits.dtype) if weights is None else weights
    return (cross_entropy(logits, support.targets).where(support.mask, 0) * weights).sum(1)


def support_accuracy(logits: Tensor, support: Support) -> Tensor:
    """Share of each lane's real examples whose largest logit is their class, (lanes,)."""
    hits = (logits.argmax(-1) == support.targets) & support.mask
    return hits.sum(1) / support.mask.sum(1)


def measure_support(kind: Kind, outputs: Tensor, support: Support, weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Loss and accuracy (lanes,) of a support set that is answered for with `outputs` (lanes, n_support, ...), in their type.

    Cross entropy by which classes weigh alike, or the mean squared error beside an accuracy of NaN.
    weights: the class-balanced ones, where they are known already.
    """
    if kind == "regression":
        loss = squared_error(outputs, support)
        return loss, torch.full_like(loss, torch.nan)
    return class_balanced_loss(outputs, support, weights) / support.class_mask.sum(1), support_accuracy(outputs, support).to(outputs.dtype)


def query_loss(kind: Kind, outputs: Tensor, targets: Tensor) -> tuple[Tensor, float]:
    """Mean cross entropy, or squared error, of outputs (lanes, n_query, ...), and the accuracy (NaN for regression)."""
    if kind == "regression":
        return F.mse_loss(outputs, targets), math.nan
    loss = F.cross_entropy(outputs.flatten(0, 1), targets.flatten())
    return loss, (outputs.detach().argmax(-1) == targets).float().mean().item()


def adapted_loss(learner: Learner, params: Params, batch: EpisodeBatch) -> tuple[Tensor, float]:
    """The mean loss on the queries after adaptation, with its graph to `params`, and the accuracy (NaN for regression)."""
    state = learner.adapt(params, batch.support, differentiable=True).state
    return query_loss(learner.kind, learner.predict(params, state, batch.query_inputs), batch.query_targets)


def squared_error(values: Tensor, support: Support) -> Tensor:
    """Mean squared error of each lane over its real examples, (lanes,). values (lanes, n, n_out)."""
    errors = (values - support.targets).square().mean(-1) * support.mask
    return errors.sum(1) / support.mask.sum(1)
