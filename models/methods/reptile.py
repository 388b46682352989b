"""Reptile: move the initial weights towards where the inner loop took them (Nichol et al. 2018, arXiv:1803.02999).

No query set and no second derivatives: an episode's support and queries together are what the inner loop learns, as the paper's
training episodes are larger than its test episodes too. What it gains over joint training comes from inner steps that see different
examples (section 5 of the paper): so in meta-training the examples are dealt to `inner_parts` parts, each class to all of them, and the
steps take the parts in turn. Serving sees the whole support set at every step, in which the order of examples is nothing (law 3).

Without a query loss nothing could teach a sharpness of the answer. So there is none: the answer is the one that the inner loop
itself made likely on the support set, and a temperature is a matter for calibration.

The paper's outer step is plain, with a rate that decays linearly to zero. Here it is Adam's, with a cosine that ends at zero, as for every
other method; the gradient given to it is the paper's, initial minus mean adapted weights.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from models.episodes import EpisodeBatch
from models.errors import InvalidOptions
from models.methods.inner_gradient import InnerPoint
from models.methods.inner_loop import LOG_SHARPNESS, GradientLearner
from models.support import Params, Support


@dataclass(frozen=True)
class Reptile(GradientLearner):
    """Gradient-based adaptation of all weights, meta-trained without queries.

    inner_steps: in meta-training; test_steps: when serving (the paper has 5 and 50 for 5-way Omniglot). 0: as many as in training.
    inner_parts: into how many parts an episode's examples are dealt in meta-training; the steps take them in turn.
    """

    inner_steps: int = 5
    first_order: bool = True
    inner_parts: int = 5
    test_steps: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.inner_parts < 1 or self.test_steps < 0:
            raise InvalidOptions(f"reptile needs inner_parts >= 1 and test_steps >= 0, got {self.inner_parts} and {self.test_steps}")
        if not self.first_order:
            raise InvalidOptions("reptile has first_order = true; for second derivatives use maml")
        if self.kind == "classification" and self.inner_steps < 2:
            raise InvalidOptions("inner_steps must be at least 2: the first step of classification moves the head alone, got 1")

    @property
    def default_steps(self) -> int:
        return self.test_steps or self.inner_steps

    def init(self, generator: torch.Generator) -> Params:
        return {name: tensor for name, tensor in super().init(generator).items() if name != LOG_SHARPNESS}

    def sharpen(self, params: Params, outputs: Tensor) -> Tensor:
        return outputs

    def meta_loss(self, params: Params, batch: EpisodeBatch, progress: float) -> tuple[Tensor, float]:
        """Half the squared way from the initial to the adapted weights, mean over lanes; the accuracy is that on the
        examples the inner loop has seen, there being no others."""
        examples = join_queries(batch)
        for point in self.descend(params, examples, self.inner_steps, parts=deal_examples(examples, self.inner_parts)):
            last: InnerPoint = point
        moved = {name: tensor for name, tensor in last.weights.items() if name in params}
        loss = sum((0.5 * (params[name] - tensor).square().sum() for name, tensor in moved.items()), torch.zeros(()))
        return loss / examples.lanes, last.judge()[1].mean().item()


def join_queries(batch: EpisodeBatch) -> Support:
    """All examples of the episodes as one support set each."""
    support = batch.support
    seen = support.mask.new_ones(batch.query_inputs.shape[:2])
    return replace(
        support,
        inputs=torch.cat([support.inputs, batch.query_inputs], 1),
        targets=torch.cat([support.targets, batch.query_targets], 1),
        mask=torch.cat([support.mask, seen], 1),
    )


def deal_examples(support: Support, n_parts: int) -> list[Support]:
    """The examples in `n_parts` supports: of each class (of all, for regression) the first goes to the first part, the second to the
    second, and so on around. Parts that would be empty are left out."""
    members = support.mask.unsqueeze(2).long()
    if support.max_way:
        members = members * torch.nn.functional.one_hot(support.targets, support.max_way)
    rank = ((members.cumsum(1) - 1) * members).sum(2)  # of the example among those of its class
    parts = [_take_examples(support, support.mask & (rank % n_parts == part)) for part in range(n_parts)]
    return [part for part in parts if part.inputs.shape[1]]


def _take_examples(support: Support, wanted: Tensor) -> Support:
    """The support of the examples in `wanted` (lanes, n_support), padded to the longest lane."""
    size = int(wanted.sum(1).max())
    order = (~wanted).to(torch.int8).argsort(dim=1, stable=True)[:, :size]
    lanes = torch.arange(support.lanes, device=order.device).unsqueeze(1)
    return replace(support, inputs=support.inputs[lanes, order], targets=support.targets[lanes, order], mask=wanted[lanes, order])
