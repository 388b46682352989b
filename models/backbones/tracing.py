"""What a backbone may have besides `features`: its first derivative, written out.

The inner loop of a served task is differentiated through by nobody, so it needs no graph; a backbone that says its own gradient is
asked for that. Without it, and in meta-training, autograd does the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

from torch import Tensor

from models.support import Params

Pullback = Callable[[Tensor], Params]
"""From the gradient in the features (lanes, n, d) to that in each parameter, with a lane axis."""


@runtime_checkable
class Traces(Protocol):
    """A backbone that says its own gradient."""

    @property
    def can_trace(self) -> bool:
        """Whether it can with its options."""
        ...

    def lay_out(self, params: Params) -> Params:
        """The same parameters, in memory the way `trace` reads them fastest."""
        ...

    def open(self, inputs: Tensor) -> Tensor:
        """What every `trace` of these inputs (lanes, n, *input_shape) begins with, made once."""
        ...

    def trace(self, params: Params, opened: Tensor) -> tuple[Tensor, Pullback]:
        """The features (lanes, n, d), and their pullback, which may be called once."""
        ...

    def run(self, params: Params, opened: Tensor) -> Tensor:
        """The features alone, with nothing kept."""
        ...
