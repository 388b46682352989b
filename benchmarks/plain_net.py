"""The net of the bundled MAML initializer as a torch user writes it, and the adaptation everybody writes: deepcopy and SGD.

Same weights, same loss, same steps as the service's: a test compares the answers. It needs torch and safetensors only, so that it
also runs where the peers are installed.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

FEATURE_POWER = 20.0
BLOCKS = 4


class PlainNet(nn.Module):
    """Conv-4 with stride and GroupNorm, and a linear head of zeros over features of a fixed squared length."""

    def __init__(self, filters: int, groups: int, feature_dim: int, n_way: int, sharpness: float) -> None:
        super().__init__()
        blocks: list[nn.Module] = []
        for block in range(BLOCKS):
            convolution = nn.Conv2d(1 if block == 0 else filters, filters, 3, stride=2, padding=1, bias=False)
            blocks += [convolution, nn.GroupNorm(groups, filters), nn.ReLU()]
        self.body = nn.Sequential(*blocks, nn.Flatten())
        self.head = nn.Linear(feature_dim, n_way)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.scale, self.sharpness = math.sqrt(FEATURE_POWER / feature_dim), sharpness

    def forward(self, images: Tensor) -> Tensor:
        """Logits of unit sharpness (n, n_way) of images (n, 1, 28, 28)."""
        logits: Tensor = self.head(self.body(images) * self.scale)
        return logits


def load_plain_net(folder: Path, n_way: int) -> tuple[PlainNet, dict[str, Any]]:
    """The net with the weights of an initializer's folder, and the learner as its card has it."""
    card, weights = json.loads((folder / "card.json").read_text()), load_file(folder / "initializer.safetensors")
    learner, filters = card["learner"], card["learner"]["backbone"]["filters"]
    net = PlainNet(filters, learner["backbone"]["groups"], 4 * filters, n_way, float(weights["answer.log_sharpness"].exp()))
    for block in range(BLOCKS):
        convolution, norm = net.body[3 * block], net.body[3 * block + 1]
        convolution.load_state_dict({"weight": weights[f"body.conv{block + 1}.weight"]})
        norm.load_state_dict({"weight": weights[f"body.norm{block + 1}.scale"], "bias": weights[f"body.norm{block + 1}.shift"]})
    return net, learner


def adapt_plainly(net: PlainNet, images: Tensor, labels: Tensor, learner: Mapping[str, Any]) -> PlainNet:
    """A copy of the net after the learner's steps of SGD on examples with equal shots of each class.

    The learner sums its loss over classes for the head, and, unless its `body_objective` is the mean, for the body too: that is a rate
    so many times higher.
    """
    adapted = copy.deepcopy(net)
    head_lr = learner["inner_lr"] * adapted.head.out_features
    body_lr = learner["inner_lr"] if learner.get("body_objective") == "mean" else head_lr
    optimizer = torch.optim.SGD(
        [{"params": adapted.body.parameters(), "lr": body_lr}, {"params": adapted.head.parameters(), "lr": head_lr}]
    )
    for _ in range(learner["inner_steps"]):
        optimizer.zero_grad()
        F.cross_entropy(adapted(images), labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return adapted


@torch.no_grad()
def predict_plainly(net: PlainNet, images: Tensor) -> Tensor:
    """Probabilities (n, n_way)."""
    probabilities: Tensor = (net(images) * net.sharpness).softmax(-1)
    return probabilities
