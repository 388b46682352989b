"""ANIL: almost no inner loop; the head alone adapts, the body is reused as it is (Raghu et al. 2020, arXiv:1909.09157).

So the features of the support set are computed once, the inner loop runs on (n_support, d) numbers, also when it is differentiated,
and the adapted state is a head: (d + 1) numbers a class.
"""

from __future__ import annotations

from dataclasses import dataclass

from models.errors import InvalidOptions
from models.learner import BODY
from models.methods.inner_loop import GradientLearner


@dataclass(frozen=True)
class Anil(GradientLearner):
    """Gradient steps of the head on fixed features. The body is meta-trained through them."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.body_objective != "sum":
            raise InvalidOptions("anil does not move the body; body_objective is sum, as by default")

    def adapts(self, name: str) -> bool:
        return not name.startswith(BODY)
