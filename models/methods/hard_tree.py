"""A CART tree on learned features whose size is forecast from the task: the `cart` variant of `models.methods.tree`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from models.methods.cart import CLASS_MASK, EXAMPLE_TARGET, Asks, Growth, find_leaves, grow_trees, leaf_frequencies, meet
from models.methods.class_attention import sign_by_class
from models.methods.objectives import mask_absent_classes, query_loss
from models.methods.protonet import class_means, squared_distances
from models.methods.tree_growth import GrowthForecast
from models.support import Params, State, Support

if TYPE_CHECKING:
    from models.episodes import EpisodeBatch

LOG_SMOOTHING = "leaf.log_smoothing"
INITIAL_SMOOTHING = 0.1


@dataclass(frozen=True)
class HardTree:
    """One tree a task, over features of some width; `asks` says of what, and `forecast` how far it grows."""

    asks: Asks
    forecast: GrowthForecast

    def init(self, generator: torch.Generator) -> Params:
        return {LOG_SMOOTHING: torch.tensor(math.log(INITIAL_SMOOTHING)), **self.forecast.init(generator)}

    def grow(self, params: Params, features: Tensor, support: Support) -> State:
        return self._grow(features, support, self.forecast.choose(params, features, support))

    def answer(self, params: Params, state: State, features: Tensor) -> Tensor:
        """Log frequencies (lanes, n, max_way) of the classes in the leaf that each of the features (lanes, n, d) falls into."""
        frequencies = leaf_frequencies(state, find_leaves(self.asks, state, features), params[LOG_SMOOTHING].exp())
        absent = ~state[CLASS_MASK].unsqueeze(1)
        return mask_absent_classes(frequencies.masked_fill(absent, 1).log(), state[CLASS_MASK])

    def explain(self, params: Params, state: State, support: Support, features: Tensor, queries: Tensor) -> Tensor:
        """The examples in the query's leaf, by weight; against the answer where they are of another class. No other example spoke."""
        met = meet(state, find_leaves(self.asks, state, queries))
        signed = sign_by_class(met, state[EXAMPLE_TARGET], self.answer(params, state, queries).argmax(-1))
        return signed / signed.abs().sum(-1, keepdim=True)

    def meta_loss(self, params: Params, batch: EpisodeBatch, features: Tensor, queries: Tensor) -> tuple[Tensor, float]:
        """The sum of three losses, each of other meta-parameters, and the accuracy of the trees that were chosen.

        The embedding has no gradient from a tree and learns by the distances to the class means, which the tree asks about; the
        forecast learns the accuracies of all cells' trees; the smoothing of the leaves learns from the answers of the chosen trees.
        """
        nearness = -squared_distances(queries, class_means(features, batch.support))
        by_distance, _ = query_loss("classification", nearness, batch.query_targets)
        with torch.no_grad():
            states = [self._grow(features, batch.support, [cell] * batch.support.lanes) for cell in self.forecast.cells]
            fared = torch.stack([self._score(params, state, queries, batch.query_targets) for state in states], 1)  # (lanes, cells)
        forecast = self.forecast.forecast(params, features, batch.support)
        chosen = self.grow(params, features.detach(), batch.support)
        by_tree, accuracy = query_loss("classification", self.answer(params, chosen, queries.detach()), batch.query_targets)
        return by_distance + by_tree + F.binary_cross_entropy_with_logits(forecast, fared), accuracy

    def _grow(self, features: Tensor, support: Support, growths: list[Growth]) -> State:
        return grow_trees(self.asks, features, support, growths)

    def _score(self, params: Params, state: State, queries: Tensor, targets: Tensor) -> Tensor:
        """Share of right answers of each lane, (lanes,)."""
        return (self.answer(params, state, queries).argmax(-1) == targets).to(queries.dtype).mean(1)
