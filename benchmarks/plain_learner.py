"""The bundled MAML initializer as a torch user has it: the plain network, the adaptation everybody writes (deepcopy and SGD), an answer.

Same weights, same loss, same steps as the service's: a test compares the answers.
"""

from __future__ import annotations

import copy
import json
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.plain_conv4 import PlainConv4, make_plain
from models.artifact import load_initializer
from models.backbones import Conv4, build_backbone
from models.learner import take_body
from models.methods.inner_loop import LOG_SHARPNESS


@dataclass(frozen=True)
class PlainLearner:
    """A network and how it is adapted: steps of SGD at one learning rate. Its answers are `sharpness` times as sharp as its loss."""

    net: PlainConv4
    steps: int
    lr: float
    sharpness: float

    def adapt(self, images: Tensor, labels: Tensor) -> PlainConv4:
        """A copy of the network after the steps, on examples with equal shots of each class."""
        adapted = copy.deepcopy(self.net)
        optimizer = torch.optim.SGD(adapted.parameters(), lr=self.lr)
        for _ in range(self.steps):
            optimizer.zero_grad()
            torch.autograd.backward(adapted.loss(images, labels))
            optimizer.step()
        return adapted

    @torch.no_grad()
    def predict(self, adapted: PlainConv4, images: Tensor) -> Tensor:
        """Probabilities (n, n_way)."""
        probabilities: Tensor = (adapted(images) * self.sharpness).softmax(-1)
        return probabilities


def load_plain_learner(folder: Path, n_way: int, device: str = "cpu") -> PlainLearner:
    """From an initializer's folder, for tasks of `n_way` classes.

    The learner sums its loss over classes for the head, and, unless its `body_objective` is the mean, for the body too: that is a rate
    so many times higher.
    """
    card, params = json.loads((folder / "card.json").read_text())["learner"], load_initializer(folder).params
    hears_mean = card.get("body_objective") == "mean"
    backbone = build_backbone(card["backbone"], tuple(card["input_shape"]))
    if not isinstance(backbone, Conv4):
        raise TypeError(f"expected a learner over a Conv-4, got {card['backbone']}")
    net = make_plain(backbone, take_body(params), n_way, math.sqrt(n_way) if hears_mean else 1.0)
    lr = card["inner_lr"] * (1 if hears_mean else n_way)
    return PlainLearner(net.to(device), card["inner_steps"], lr, float(params[LOG_SHARPNESS].exp()))
