"""What methods without an inner loop share: one embedding of single inputs for all tasks, whose parameters are named `body.*`."""

from __future__ import annotations

import torch
from torch import Tensor

from models.backbones import Backbone
from models.learner import BODY, take_body
from models.support import Params


class SharedEmbedding:
    """The embedding part of a learner; its class is the dataclass, and has `backbone` among its fields."""

    backbone: Backbone

    @property
    def input_shape(self) -> tuple[int, ...]:
        return self.backbone.input_shape

    @property
    def default_steps(self) -> int:
        return 0

    def embed(self, params: Params, inputs: Tensor) -> Tensor:
        return self.backbone.features(take_body(params), inputs)

    def init_body(self, generator: torch.Generator) -> Params:
        """Fresh parameters of the backbone, by their names in a learner."""
        return {BODY + name: tensor for name, tensor in self.backbone.init(generator).items()}
