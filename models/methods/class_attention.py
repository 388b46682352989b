"""Attention of queries over a support set that no class wins by its number of examples, and what it says of the classes.

Each example's score has minus the logarithm of its class's count added: two copies of an example attend like one.
"""

from __future__ import annotations

import torch
from torch import Tensor


def log_shares(targets: Tensor, mask: Tensor, class_mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Logarithm of one over the count of each example's class, (lanes, n); minus infinity for padding.

    targets (lanes, n) int64 class index; mask (lanes, n) and class_mask (lanes, max_way) bool.
    """
    counts = torch.zeros_like(class_mask, dtype=dtype).scatter_add(1, targets, mask.to(dtype))
    return (-counts.gather(1, targets).clamp(min=1).log()).masked_fill(~mask, -torch.inf)


def log_attention(scores: Tensor, shares: Tensor) -> Tensor:
    """Log of the attention of each query: scores (lanes, n_query, n) and shares (lanes, n) to (lanes, n_query, n)."""
    return (scores + shares.unsqueeze(1)).log_softmax(-1)


def sum_by_class(attention: Tensor, targets: Tensor, mask: Tensor, class_mask: Tensor) -> Tensor:
    """Log of the attention that each class gets: log attention (lanes, n_query, n) to (lanes, n_query, max_way).

    Finite for every class that a lane has, however small its attention: a class is summed beside its own largest
    member, so float32 does not round it to zero. Minus infinity for the others.
    """
    lanes, n_query, _ = attention.shape
    ways = class_mask.shape[1]
    index = targets.unsqueeze(1).expand_as(attention)
    attention = attention.masked_fill(~mask.unsqueeze(1), -torch.inf)
    largest = attention.new_full((lanes, n_query, ways), -torch.inf).scatter_reduce(2, index, attention.detach(), "amax")
    largest = largest.masked_fill(~class_mask.unsqueeze(1), 0)
    sums = attention.new_zeros(lanes, n_query, ways).scatter_add(2, index, (attention - largest.gather(2, index)).exp())
    sums = sums.masked_fill(~class_mask.unsqueeze(1), 1)  # the logarithm of nothing would poison the gradient
    return (sums.log() + largest).masked_fill(~class_mask.unsqueeze(1), -torch.inf)


def sign_by_class(attention: Tensor, targets: Tensor, predicted: Tensor) -> Tensor:
    """Attention (lanes, n_query, n) for the members of the predicted class (lanes, n_query), and minus it for the others."""
    is_member = targets.unsqueeze(1) == predicted.unsqueeze(-1)
    return torch.where(is_member, attention, -attention)
