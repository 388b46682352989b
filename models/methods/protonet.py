"""Prototypical networks: the nearest class mean in a learned embedding (Snell et al. 2017, arXiv:1703.05175)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from models.backbones import Backbone
from models.learner import Adaptation, Kind, RowHead
from models.methods.closed_native import solve_natively
from models.methods.objectives import class_balanced_weights, mask_absent_classes, measure_support, spread_by_class
from models.support import Params, State, Support

PROTOTYPES, CLASS_MASK = "class.prototypes", "class.mask"

_MAX_DIFFERENCES = 2**24
"""Numbers in one block of differences between points and centres: 64 MB."""

_NEAREST = 1e-6
"""Squared distance below which two features are the same: far below what tells examples apart (10 and more)."""


@dataclass(frozen=True)
class ProtoNet:
    """An embedding whose adapted state is one prototype per class; the squared Euclidean distance answers (eq. 1 and 2)."""

    KINDS: ClassVar[tuple[Kind, ...]] = ("classification",)

    backbone: Backbone
    kind: Kind = "classification"

    @property
    def input_shape(self) -> tuple[int, ...]:
        return self.backbone.input_shape

    @property
    def default_steps(self) -> int:
        return 0

    def init(self, generator: torch.Generator) -> Params:
        return self.backbone.init(generator)

    def adapt(self, params: Params, support: Support, steps: int | None = None, *, differentiable: bool = False) -> Adaptation:
        if not differentiable and (found := solve_natively(self.backbone, params, support, prefix="")) is not None:
            state = {PROTOTYPES: found.rows, CLASS_MASK: support.class_mask.clone()}
            return Adaptation(state, found.loss, found.accuracy, found.features)
        with torch.set_grad_enabled(differentiable):
            features = self.backbone.features(params, support.inputs)
            weights = class_balanced_weights(support, features.dtype)
            state = {PROTOTYPES: class_means(features, support, weights), CLASS_MASK: support.class_mask.clone()}
        with torch.no_grad():
            loss, accuracy = measure_support(self.kind, self._compare(state, features), support, weights)
        return Adaptation(state, loss.unsqueeze(1), accuracy.unsqueeze(1), features)

    def predict(self, params: Params, state: State, queries: Tensor) -> Tensor:
        return self._compare(state, self.backbone.features(params, queries))

    def row_head(self, params: Params) -> RowHead:
        return RowHead(PROTOTYPES, compares="distance")

    def embed(self, params: Params, inputs: Tensor) -> Tensor:
        return self.backbone.features(params, inputs)

    def explain(self, params: Params, state: State, support: Support, queries: Tensor) -> Tensor:
        """How near the members of the predicted class and, against it, of the runner-up are: shares of one over the squared
        distance, an example of a class of n counting one n-th. The other classes' examples have zero."""
        features = self.backbone.features(params, queries)
        distances = squared_distances(features, self.backbone.features(params, support.inputs))
        nearness = class_balanced_weights(support, features.dtype).unsqueeze(1) / distances.clamp(min=_NEAREST)
        best = self._compare(state, features).topk(min(2, support.max_way), dim=-1).indices.unsqueeze(2)  # (lanes, n_query, 1, 2)
        is_of = support.targets[:, None, :, None] == best  # (lanes, n_query, n_support, 2)
        pulls = nearness * (is_of[..., 0].to(nearness.dtype) - is_of[..., 1:].any(-1).to(nearness.dtype))
        return pulls / pulls.abs().sum(-1, keepdim=True)

    def _compare(self, state: State, features: Tensor) -> Tensor:
        return mask_absent_classes(-squared_distances(features, state[PROTOTYPES]), state[CLASS_MASK])


def class_means(features: Tensor, support: Support, weights: Tensor | None = None) -> Tensor:
    """Mean feature of each class, the prototypes of eq. 1: (lanes, n_support, d) to (lanes, max_way, d), zeros for padding.
    weights: the class-balanced ones, where they are known already."""
    weights = class_balanced_weights(support, features.dtype) if weights is None else weights
    return torch.bmm(spread_by_class(weights, support).mT, features)


def squared_distances(points: Tensor, centres: Tensor) -> Tensor:
    """|p - c|^2 of (lanes, n, d) and (lanes, m, d) as (lanes, n, m).

    Summed over differences, not expanded into squares: |p|^2 - 2pc + |c|^2 loses digits when the distances are small,
    and then an answer would change with its batch. The differences of all pairs at once, 5,000 examples against 1,000 classes, would
    take 10 GB; so they are made in blocks of rows.
    """
    n_rows = max(1, _MAX_DIFFERENCES // max(1, centres.numel()))
    blocks = [points] if points.shape[1] <= n_rows else torch.split(points, n_rows, dim=1)
    distances = [(rows.unsqueeze(2) - centres.unsqueeze(1)).square().sum(-1) for rows in blocks]
    return distances[0] if len(distances) == 1 else torch.cat(distances, dim=1)
