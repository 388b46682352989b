"""BOIL: body only update in the inner loop; the head stays, so the representation has to change (Oh et al. 2021, arXiv:2008.08882).

The paper's head is meta-learned, one row a class. Such rows make class 0 another class than class 1 (law 3) and fix the number of ways.
So for classification the head that stays is made of the task: the prototype classifier of the support set under the initial body, as in
`models.methods.protomaml`. The body then moves the features towards where their class was and away from where the others were, which
is what BOIL asks of it, and the outer gradient reaches the initial body through that head too. Regression has no classes to tell apart
and keeps the paper's form, a meta-learned head.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from models.learner import BODY
from models.methods.inner_loop import GradientLearner


@dataclass(frozen=True)
class Boil(GradientLearner):
    """Gradient steps of the body under a fixed head: that of the task's prototypes, or for regression a meta-learned one."""

    starts_at_prototypes: ClassVar[bool] = True

    def adapts(self, name: str) -> bool:
        return name.startswith(BODY)

    def moves(self, step: int, name: str) -> bool:
        return self.adapts(name)
