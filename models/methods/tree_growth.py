"""How far a task's tree may grow, decided by a small network that has seen how trees of each size fared on other tasks.

CART has no gradient, so nothing of it can be descended. Instead each pair of a depth and a smallest leaf is a cell; on every training
episode a tree of each cell is fitted and judged on the queries, and the network regresses those accuracies on what the support set looks
like. A new task gets the cell of the best forecast: no query is needed, and no cross-validation, which one shot would not allow.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

from models.methods.cart import Growth
from models.methods.dense import apply_dense, init_dense
from models.methods.objectives import class_balanced_weights
from models.support import Params, Support

_COUNTS = 2
"""Numbers about the size of a task: ways and shots, as logarithms."""


@dataclass(frozen=True)
class GrowthForecast:
    """The cells, and the forecast of their accuracy from features of `width` numbers."""

    width: int
    depths: tuple[int, ...]
    min_leaves: tuple[int, ...]
    hidden: int = 32

    @property
    def cells(self) -> list[Growth]:
        return [Growth(depth, min_leaf) for depth, min_leaf in product(self.depths, self.min_leaves)]

    def init(self, generator: torch.Generator) -> Params:
        """A forecast that before the first episode is in favour of depth and of small leaves, in every task alike."""
        params = init_dense("growth.hidden", 2 * self.width + _COUNTS, self.hidden, generator, gain=math.sqrt(2))
        params |= init_dense("growth.accuracy", self.hidden, len(self.cells), generator, gain=0)
        params["growth.accuracy.bias"] += torch.tensor([math.log(cell.depth / cell.min_leaf) for cell in self.cells])
        return params

    def forecast(self, params: Params, features: Tensor, support: Support) -> Tensor:
        """Logit of the accuracy of each cell's tree on queries, (lanes, cells). No gradient goes to the features."""
        task = _describe(features.detach(), support)
        return apply_dense(params, "growth.accuracy", F.relu(apply_dense(params, "growth.hidden", task)))

    def choose(self, params: Params, features: Tensor, support: Support) -> list[Growth]:
        """The best cell for each lane."""
        cells = self.cells
        return [cells[best] for best in self.forecast(params, features, support).argmax(1).tolist()]


def _describe(features: Tensor, support: Support) -> Tensor:
    """Mean and spread of a task's features with the length taken off, and its ways and shots: (lanes, 2 d + 2)."""
    ways = support.class_mask.sum(1, keepdim=True).to(features.dtype)
    shares = (class_balanced_weights(support, features.dtype) / ways).unsqueeze(2)
    mean = (features * shares).sum(1)
    spread = ((features - mean.unsqueeze(1)).square() * shares).sum(1)
    # A spread of zero has a root without slope, but no gradient comes this way.
    moments = F.normalize(torch.stack([mean, spread.sqrt()], dim=1), dim=2).flatten(1)
    shots = support.mask.sum(1, keepdim=True) / ways
    return torch.cat([moments, ways.log(), shots.log()], dim=1)
