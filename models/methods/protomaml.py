"""ProtoMAML: gradient steps that start from a prototype classifier (Triantafillou et al. 2020, arXiv:1903.03096, section 3).

The squared distance to a class mean c is, up to what all classes share, a linear layer with weight 2c and bias -|c|^2. There the head
starts, and then all weights move. So no step is a prototypical network, and the class head has a good start without being meta-learned.
The outer gradient flows through the start too, as in the paper.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from models.learner import Kind
from models.methods.inner_loop import GradientLearner


@dataclass(frozen=True)
class ProtoMaml(GradientLearner):
    """Gradient-based adaptation of all weights, from a head of prototypes under the initial body."""

    KINDS: ClassVar[tuple[Kind, ...]] = ("classification",)
    starts_at_prototypes: ClassVar[bool] = True

    def moves(self, step: int, name: str) -> bool:
        return True
