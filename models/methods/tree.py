"""Meta decision trees: what decides how a tree asks is learned over many tasks, and a new task gets a tree of its own.

The name has several meanings (Todorovski & Dzeroski 2003 choose among classifiers with one; Zhuang et al. 2024, arXiv:2402.03774, have a
transformer emit one). Here are two, by `variant`:

- `soft` (`models.methods.soft_tree`): a forest of soft trees whose questions are meta-learned and whose leaves are fitted to each task.
- `cart` (`models.methods.cart`): one hard tree a task, of learned features; how deep it grows is forecast from the task.

One tree alone does not know what to do with 20 classes of one example each. On validation classes and the bundled prototypes'
embedding, before any training (150 episodes; a figure for 1 shot, then for 5), a CART tree of features is right in 25.6 and 65.8 % of
20-way answers, one of distances in 58.1 and 89.6 %. One shot leaves a split nothing to be chosen by: all that part whole classes are
equally good, and every wrong turn is final. Of margins it is 96.3 and 99.0 %: its questions are then "is it class c", one after the
other, and it is the nearest class mean written as a tree. Soft trees reach as much by their number, not each by itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, get_args

import torch
from torch import Tensor

from models.backbones import Backbone
from models.errors import InvalidOptions
from models.learner import Adaptation, Kind
from models.methods.cart import Asks
from models.methods.hard_tree import HardTree
from models.methods.objectives import measure_support, query_loss
from models.methods.shared_embedding import SharedEmbedding
from models.methods.soft_tree import Leaves, SoftTrees
from models.methods.tree_growth import GrowthForecast
from models.support import Params, State, Support

if TYPE_CHECKING:
    from models.episodes import EpisodeBatch

Variant = Literal["soft", "cart"]
DEEPEST_SOFT = 10
"""A thousand leaves a tree."""


@dataclass(frozen=True)
class Tree(SharedEmbedding):
    """An embedding under trees.

    soft: `n_trees` of `depth` questions in a row, and `leaves` of `ridge` values or class `frequency`.
    cart: `asks` of a class's `margin` or `distance` or of a `feature`; `depths` and `min_leaves` are the sizes to choose from.
    """

    KINDS: ClassVar[tuple[Kind, ...]] = ("classification",)

    backbone: Backbone
    kind: Kind = "classification"
    variant: Variant = "soft"
    n_trees: int = 32
    depth: int = 4
    leaves: Leaves = "ridge"
    asks: Asks = "margin"
    depths: tuple[int, ...] = (4, 8, 16, 64)
    min_leaves: tuple[int, ...] = (1, 2, 4)

    def __post_init__(self) -> None:
        for name, kinds in {"variant": Variant, "leaves": Leaves, "asks": Asks}.items():
            if getattr(self, name) not in get_args(kinds):
                raise InvalidOptions(f"tree {name} must be one of {list(get_args(kinds))}, got {getattr(self, name)!r}")
        if self.n_trees < 1 or not 1 <= self.depth <= DEEPEST_SOFT:
            raise InvalidOptions(f"tree needs n_trees >= 1 and depth in [1, {DEEPEST_SOFT}], got {self.n_trees} and {self.depth}")
        for name in ("depths", "min_leaves"):
            object.__setattr__(self, name, tuple(getattr(self, name)))  # a recipe has lists
            sizes = getattr(self, name)
            if not sizes or min(sizes) < 1 or len(set(sizes)) < len(sizes):
                raise InvalidOptions(f"tree {name} must list whole numbers of at least 1, each once; got {list(sizes)}")

    @property
    def trees(self) -> SoftTrees | HardTree:
        width = self.backbone.feature_dim
        if self.variant == "soft":
            return SoftTrees(width, self.n_trees, self.depth, self.leaves)
        return HardTree(self.asks, GrowthForecast(width, self.depths, self.min_leaves))

    def init(self, generator: torch.Generator) -> Params:
        return {**self.init_body(generator), **self.trees.init(generator)}

    def adapt(self, params: Params, support: Support, steps: int | None = None, *, differentiable: bool = False) -> Adaptation:
        with torch.set_grad_enabled(differentiable):
            features = self.embed(params, support.inputs)
            state = self.trees.grow(params, features, support)
        with torch.no_grad():
            loss, accuracy = measure_support(self.kind, self.trees.answer(params, state, features), support)
        return Adaptation(state, loss.unsqueeze(1), accuracy.unsqueeze(1))

    def predict(self, params: Params, state: State, queries: Tensor) -> Tensor:
        return self.trees.answer(params, state, self.embed(params, queries))

    def explain(self, params: Params, state: State, support: Support, queries: Tensor) -> Tensor:
        with torch.no_grad():
            return self.trees.explain(params, state, support, self.embed(params, support.inputs), self.embed(params, queries))

    def meta_loss(self, params: Params, batch: EpisodeBatch, progress: float) -> tuple[Tensor, float]:
        """Of soft trees the mean loss on the queries after adaptation, as every other learner has; of hard ones their own."""
        if isinstance(self.trees, HardTree):
            features, queries = self.embed(params, batch.support.inputs), self.embed(params, batch.query_inputs)
            return self.trees.meta_loss(params, batch, features, queries)
        state = self.adapt(params, batch.support, differentiable=True).state
        return query_loss(self.kind, self.predict(params, state, batch.query_inputs), batch.query_targets)
