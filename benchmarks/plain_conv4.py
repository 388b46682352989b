"""Conv-4 with a linear head as one writes it with torch.nn: the network that every peer is given, with our weights in it.

Peers have one learning rate for all tensors; our learner's body hears the mean of the classes' losses and its head their sum
(`body_objective`). So the peers' head has a factor: a head of weight w = sqrt(n_way) v moves n_way times as far when v takes the step.
Seen through `to_state` both walk the same way, and the peers do no more work for it than one multiplication of the logits.
"""

from __future__ import annotations

import math
from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.backbones import Conv4
from models.backbones.conv4 import BLOCKS
from models.backbones.lanes import EPSILON
from models.learner import BODY
from models.methods.class_head import CLASS_BIAS, CLASS_WEIGHT, FEATURE_POWER
from models.support import Params, State

NORM_NAMES = {".scale": ".weight", ".shift": ".bias"}


class PlainConv4(nn.Module):
    """Body and head; the head starts at zeros, as our learner's does. head_scale: its factor, unless sqrt(n_way)."""

    def __init__(self, backbone: Conv4, n_way: int, head_scale: float | None = None) -> None:
        super().__init__()
        self.body = make_body(backbone)
        self.head = nn.Linear(backbone.feature_dim, n_way)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.feature_scale = math.sqrt(FEATURE_POWER / backbone.feature_dim)
        self.head_scale = math.sqrt(n_way) if head_scale is None else head_scale

    def features(self, inputs: Tensor) -> Tensor:
        """(n, channels, height, width) to (n, feature_dim)."""
        features: Tensor = self.body(inputs)
        return features.flatten(1)

    def read(self, features: Tensor) -> Tensor:
        """Logits of unit sharpness."""
        logits: Tensor = self.head(features * self.feature_scale) * self.head_scale
        return logits

    def forward(self, inputs: Tensor) -> Tensor:
        return self.read(self.features(inputs))

    def loss(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """What the inner loop descends."""
        return F.cross_entropy(self(inputs), targets)


def make_body(backbone: Conv4) -> nn.Sequential:
    """The four blocks, with names that map to those of our parameters."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    c_in, is_strided = backbone.input_shape[0], backbone.downsample == "stride"
    for block, width in zip(range(1, BLOCKS + 1), backbone.block_widths, strict=True):
        layers[f"conv{block}"] = nn.Conv2d(c_in, width, 3, stride=2 if is_strided else 1, padding=1, bias=False)
        layers[f"norm{block}"] = nn.GroupNorm(backbone.groups, width, eps=EPSILON)
        layers[f"relu{block}"] = nn.ReLU()
        if not is_strided:
            layers[f"pool{block}"] = nn.MaxPool2d(2)
        c_in = width
    return nn.Sequential(layers)


def make_plain(backbone: Conv4, body: Params, n_way: int, head_scale: float | None = None) -> PlainConv4:
    """The plain network with a body's parameters, named as the backbone names them."""
    model = PlainConv4(backbone, n_way, head_scale)
    model.body.load_state_dict({_plain_name(name): tensor for name, tensor in body.items()})
    return model


def to_state(model: PlainConv4, weights: Params) -> State:
    """Adapted weights of the plain network, (lanes, ...), under the names and in the scale of our learner's adapted state."""
    return {
        **rename_body(model, weights),
        CLASS_WEIGHT: weights["head.weight"] * model.head_scale,
        CLASS_BIAS: weights["head.bias"] * model.head_scale,
    }


def rename_body(model: PlainConv4, tensors: Params) -> Params:
    """What `tensors` hold for the body (weights, or gradients in them), under our learner's names."""
    names = {BODY + name: f"body.{_plain_name(name)}" for name in _our_names(model)}
    return {ours: tensors[plain] for ours, plain in names.items() if plain in tensors}


def stack_weights(tasks: list[Params]) -> Params:
    """One tensor with a lane axis for each name."""
    return {name: torch.stack([weights[name].detach() for weights in tasks]) for name in tasks[0]}


def _our_names(model: PlainConv4) -> list[str]:
    back = {plain: ours for ours, plain in NORM_NAMES.items()}
    names = [name for name, _ in model.body.named_parameters()]
    return [name if name.startswith("conv") else name[: name.index(".")] + back[name[name.index(".") :]] for name in names]


def _plain_name(name: str) -> str:
    layer, _, kind = name.partition(".")
    return f"{layer}{NORM_NAMES.get(f'.{kind}', f'.{kind}')}"
