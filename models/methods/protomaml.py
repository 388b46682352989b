"""ProtoMAML: gradient steps that start from a prototype classifier (Triantafillou et al. 2020, arXiv:1903.03096, section 3).

The squared distance to a class mean c is, up to what all classes share, a linear layer with weight 2c and bias -|c|^2. There the head
starts, and then all weights move. So no step is a prototypical network, and the class head has a good start without being meta-learned.
The outer gradient flows through the start too, as in the paper.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from models.learner import Kind
from models.methods.inner_loop import GradientLearner
from models.methods.protonet import class_means
from models.support import Params, Support


@dataclass(frozen=True)
class ProtoMaml(GradientLearner):
    """Gradient-based adaptation of all weights, from a head of prototypes under the initial body."""

    KINDS: ClassVar[tuple[Kind, ...]] = ("classification",)

    def start_head(self, params: Params, support: Support) -> tuple[Tensor, Tensor]:
        return prototype_head(self.scale(self.features(params, {}, support.inputs)), support)

    def moves(self, step: int, name: str) -> bool:
        return True


def prototype_head(features: Tensor, support: Support) -> tuple[Tensor, Tensor]:
    """The linear layer that ranks by squared distance to the class means: weight (lanes, max_way, d), bias (lanes, max_way).
    features (lanes, n_support, d); zeros for classes that a lane does not have."""
    centres = class_means(features, support)
    return 2 * centres, -centres.square().sum(-1)
