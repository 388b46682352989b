"""Multi-head attention on a support set (Vaswani et al. 2017, arXiv:1706.03762), in blocks, blind to padding and to class names.

Written out in plain torch: it runs in float64, and its weights can be looked at.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

_MAX_SCORES = 2**24
"""Scores in one block of rows: 64 MB."""


@dataclass(frozen=True)
class Kinship:
    """What a head adds to the score of an example of the same class, (heads,): all that attention is told of the classes.

    rows (lanes, n) and columns (lanes, n_support) int64 are the class of who looks and of who is seen.
    """

    favour: Tensor
    rows: Tensor
    columns: Tensor

    def scores(self) -> Tensor:
        """(lanes, heads, n, n_support)."""
        same = self.rows.unsqueeze(2) == self.columns.unsqueeze(1)
        return same.unsqueeze(1) * self.favour[:, None, None]


def attend(query: Tensor, key: Tensor, value: Tensor, shares: Tensor, heads: int, kinship: Kinship | None = None) -> Tensor:
    """What each row of `query` (lanes, n, width) takes of `value` (lanes, n_support, width): (lanes, n, width).

    shares (lanes, n_support) is added to every score; minus infinity hides an example. A row's result is its own: rows never see
    each other, and memory is bounded by blocks of them.
    """
    n_rows = max(1, _MAX_SCORES // (heads * max(1, shares.numel())))
    blocks = []
    for start in range(0, query.shape[1], n_rows):
        rows = slice(start, start + n_rows)
        block = None if kinship is None else Kinship(kinship.favour, kinship.rows[:, rows], kinship.columns)
        weights = attention_weights(query[:, rows], key, shares, heads, block)
        blocks.append((weights @ _split_heads(value, heads)).transpose(1, 2).flatten(2))
    return torch.cat(blocks, dim=1)


def attention_weights(query: Tensor, key: Tensor, shares: Tensor, heads: int, kinship: Kinship | None = None) -> Tensor:
    """Softmax of the scaled products of each head, (lanes, heads, n, n_support); zero where `shares` is minus infinity."""
    scores = _split_heads(query, heads) @ _split_heads(key, heads).mT * math.sqrt(heads / query.shape[-1])
    if kinship is not None:
        scores = scores + kinship.scores()
    return (scores + shares[:, None, None, :]).softmax(-1)


def _split_heads(rows: Tensor, heads: int) -> Tensor:
    """(lanes, n, width) as (lanes, heads, n, width / heads)."""
    return rows.reshape(*rows.shape[:2], heads, -1).transpose(1, 2)
