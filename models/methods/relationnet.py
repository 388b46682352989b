"""Relation networks: learn the comparison itself (Sung et al. 2018, arXiv:1711.06025).

A small network, the relation module, scores how well a query belongs to a class, from the class's and the query's
feature (eq. 1). Three things are other than in the paper. The figures are accuracies on validation classes, 20-way 1-shot and
5-shot, after 150 steps of 60-way 1-shot Omniglot from the body of omniglot-protonet; this form has 94.2 % and 98.8 %.

- The paper adds up the features of a class's examples; here they are averaged, so that one module serves any number of shots.
- Beside both features the module reads the squares of their differences, and it starts as minus their weighted
  sum. A module that has to find out by itself what resemblance is: 81.8 % and 91.3 %.
- The paper regresses the sigmoid of each score on one or zero by squared error, where a class is judged alone. Here
  scores are logits that share one cross entropy, as of every other learner. With the squared error: 92.5 % and 93.8 %.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from models.backbones import Backbone
from models.backbones.lanes import lane_linear
from models.errors import InvalidOptions
from models.learner import Adaptation, Kind
from models.methods.class_attention import log_attention, log_shares, sign_by_class
from models.methods.objectives import mask_absent_classes, measure_support
from models.methods.protonet import class_means
from models.methods.shared_embedding import SharedEmbedding
from models.support import Params, State, Support

CLASS_FEATURE, CLASS_MASK = "class.feature", "class.mask"

_MAX_NUMBERS = 2**24
"""Numbers in one layer of the relation module for one block of pairs: 64 MB."""


@dataclass(frozen=True)
class RelationNet(SharedEmbedding):
    """An embedding and a relation module; the adapted state is the mean feature of each class.

    hidden: width of the module's two hidden layers.
    """

    KINDS: ClassVar[tuple[Kind, ...]] = ("classification",)

    backbone: Backbone
    kind: Kind = "classification"
    hidden: int = 64

    def __post_init__(self) -> None:
        if self.hidden < 1:
            raise InvalidOptions(f"relationnet hidden must be at least 1, got {self.hidden}")

    def init(self, generator: torch.Generator) -> Params:
        """A module that scores by minus a weighted squared distance: prototypical networks, but for weights by chance around one."""
        width, hidden = self.backbone.feature_dim, self.hidden
        body = self.init_body(generator)
        return {
            **body,
            "relation.class": torch.zeros(hidden, width),
            "relation.query": torch.zeros(hidden, width),
            "relation.difference": torch.rand(hidden, width, generator=generator) * 2,
            "relation.bias": torch.zeros(hidden),
            "relation.hidden.weight": torch.rand(hidden, hidden, generator=generator) * 2 / hidden,
            "relation.hidden.bias": torch.zeros(hidden),
            "relation.score": -torch.rand(1, hidden, generator=generator) * 2 / hidden,
        }

    def adapt(self, params: Params, support: Support, steps: int | None = None, *, differentiable: bool = False) -> Adaptation:
        with torch.set_grad_enabled(differentiable):
            features = self.embed(params, support.inputs)
            state = {CLASS_FEATURE: class_means(features, support), CLASS_MASK: support.class_mask.clone()}
        with torch.no_grad():
            loss, accuracy = measure_support(self.kind, self._answer(params, state, features), support)
        return Adaptation(state, loss.unsqueeze(1), accuracy.unsqueeze(1), features)

    def predict(self, params: Params, state: State, queries: Tensor) -> Tensor:
        return self._answer(params, state, self.embed(params, queries))

    def explain(self, params: Params, state: State, support: Support, queries: Tensor) -> Tensor:
        """A softmax over the relation scores of single examples, which is the answer itself when each class has one.

        Members of the predicted class speak for it, the others against; no class speaks louder by its number of shots.
        """
        features = self.embed(params, queries)
        shares = log_shares(support.targets, support.mask, support.class_mask, features.dtype)
        attention = log_attention(relate(params, features, self.embed(params, support.inputs)), shares).exp()
        return sign_by_class(attention, support.targets, self._answer(params, state, features).argmax(-1))

    def _answer(self, params: Params, state: State, features: Tensor) -> Tensor:
        return mask_absent_classes(relate(params, features, state[CLASS_FEATURE]), state[CLASS_MASK])


def relate(params: Params, queries: Tensor, classes: Tensor) -> Tensor:
    """Score of every pair of features: queries (lanes, n, d) and classes (lanes, m, d) to (lanes, n, m).

    Made in blocks of queries: all pairs of 5,000 examples and 1,000 classes at once would take 5 GB a layer.
    """
    hidden, width = params["relation.difference"].shape
    n_rows = max(1, _MAX_NUMBERS // max(1, classes.shape[0] * classes.shape[1] * max(hidden, width)))
    from_classes = lane_linear(classes, params["relation.class"], params["relation.bias"]).unsqueeze(1)
    return torch.cat([_score(params, rows, classes, from_classes) for rows in torch.split(queries, n_rows, dim=1)], dim=1)


def _score(params: Params, queries: Tensor, classes: Tensor, from_classes: Tensor) -> Tensor:
    """The relation module. Its first layer is linear in its three parts, so the features' are computed once each, not once a pair."""
    differences = (queries.unsqueeze(2) - classes.unsqueeze(1)).square()  # (lanes, n, m, d)
    from_queries = lane_linear(queries, params["relation.query"]).unsqueeze(2)
    layer = F.relu(lane_linear(differences, params["relation.difference"]) + from_queries + from_classes)
    layer = F.relu(lane_linear(layer, params["relation.hidden.weight"], params["relation.hidden.bias"]))
    return lane_linear(layer, params["relation.score"]).squeeze(-1)
