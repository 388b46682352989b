"""FOMAML: MAML whose outer gradient takes the inner gradients as constants (Finn et al. 2017, arXiv:1703.03400, section 5.2;
Nichol et al. 2018, arXiv:1803.02999, section 2).

It adapts as MAML does. Meta-training needs no derivative of a derivative: a step is cheaper, and its memory does not hold the
graphs of the inner gradients.
"""

from __future__ import annotations

from dataclasses import dataclass

from models.errors import InvalidOptions
from models.methods.inner_loop import GradientLearner


@dataclass(frozen=True)
class FoMaml(GradientLearner):
    """MAML by the first-order outer gradient: that of the query loss in the adapted weights."""

    first_order: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.first_order:
            raise InvalidOptions("fomaml has first_order = true; for second derivatives use maml")
