"""Which support examples drove an answer: those whose loss pulls the last layer the way the query's answer does.

The gradient of a loss in a linear layer is the error on the outputs times the features, so the inner product of two examples'
gradients is closed: (errors . errors) x (features . features + 1), the one for the bias. Similarity of gradients as a measure of
influence is TracIn (Pruthi et al. 2020, arXiv:2002.08484); here at one point and in the last layer alone.
"""

from __future__ import annotations

import torch
from torch import Tensor

from models.methods.objectives import class_balanced_weights
from models.support import Support


def compare_answers(support: Support, logits: Tensor, query_logits: Tensor, features: Tensor, query_features: Tensor) -> Tensor:
    """Signed weights (lanes, n_query, n_support) under cross entropy; the absolute values of a query sum to one.

    logits (lanes, n_support, max_way) and query_logits (lanes, n_query, max_way) may hold minus infinity; features (..., d).
    The query is taken as labelled by its largest logit, and a support example counts by its share in the inner objective.
    """
    balance = class_balanced_weights(support, logits.dtype)
    errors, log_size = _class_errors(logits, support.targets)
    log_size = log_size.masked_fill(~support.mask, -torch.inf)
    size = (log_size - log_size.amax(1, keepdim=True)).nan_to_num(0).exp() * balance
    query_errors, _ = _class_errors(query_logits, query_logits.argmax(-1))
    return _normalise((query_errors @ (errors * size.unsqueeze(2)).mT) * (query_features @ features.mT + 1), support)


def compare_values(support: Support, values: Tensor, query_errors: Tensor, features: Tensor, query_features: Tensor) -> Tensor:
    """Signed weights (lanes, n_query, n_support) under squared error; the absolute values of a query sum to one.

    values (lanes, n_support, n_out); query_errors (lanes, n_query, n_out) are values minus what the query is taken as labelled by.
    """
    return _normalise((query_errors @ (values - support.targets).mT) * (query_features @ features.mT + 1), support)


def _class_errors(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """softmax(logits) minus the one-hot target as direction (lanes, n, max_way) and logarithm of its size (lanes, n).

    In this form no digit is lost when the answer is nearly certain: the direction is the softmax of the other classes, minus one at
    the target, and the size is the probability of the others.
    """
    is_target = torch.zeros_like(logits, dtype=torch.bool).scatter(2, targets.unsqueeze(2), True)
    others = logits.masked_fill(is_target, -torch.inf)
    log_size = others.logsumexp(2) - logits.logsumexp(2)
    return others.softmax(2).nan_to_num(0).masked_fill(is_target, -1), log_size


def _normalise(weights: Tensor, support: Support) -> Tensor:
    """Zero for padding and absolute values that sum to one; even weights where nothing pulls."""
    mask = support.mask.unsqueeze(1)
    weights = weights.masked_fill(~mask, 0)
    total = weights.abs().sum(2, keepdim=True)
    return torch.where(total > 0, weights / total.where(total > 0, 1), mask / mask.sum(2, keepdim=True))
