"""Hypernet: a network reads the support set and writes the weights of another, which answers (Ha et al. 2017, arXiv:1609.09106).

As in CNAPs (Requeima et al. 2019, arXiv:1906.07697) no gradient step is taken and the network is written in two passes. The first
reads the examples through the shared body, pools them into one vector of the task, and emits what is added to each scale and shift of
the body (FiLM, Perez et al. 2018, arXiv:1709.07871). The second reads them through the body so modulated, and emits the classifier row
by row, each from its class's pooled features. Convolutions stay shared: a task's own numbers are its scales, shifts and rows.

Two things differ from the paper. The set encoder reads the body's features, not the images through a network of its own. And emitted
weights are added to a start that answers already: no modulation, and rows that rank by the distance to the class means (Snell et al.
2017, arXiv:1703.05175). So from a prototypical network's weights meta-training starts at that network's accuracy.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from models.backbones import Backbone
from models.errors import InvalidOptions
from models.learner import BODY, Adaptation, Kind, take_body
from models.methods.dense import apply_dense, init_dense
from models.methods.objectives import class_balanced_weights, mask_absent_classes, measure_support
from models.methods.protonet import class_means
from models.methods.shared_embedding import SharedEmbedding
from models.support import Params, State, Support

FILM = "film."
CLASS_WEIGHT, CLASS_BIAS, CLASS_MASK = "class.weight", "class.bias", "class.mask"
CENTRE = "centre"
MODULATED = (".scale", ".shift", ".bias")
"""Endings of the body's parameters that are modulated: scale and shift of each channel of Conv-4, the biases of an MLP."""

_COUNTS = 2
"""Numbers about the size of a task in its vector: ways and shots, as logarithms."""


@dataclass(frozen=True)
class Hypernet(SharedEmbedding):
    """A body whose scales and shifts, and whose classifier, are emitted for each task. `width` is that of every emitting layer."""

    KINDS: ClassVar[tuple[Kind, ...]] = ("classification",)

    backbone: Backbone
    kind: Kind = "classification"
    width: int = 64

    def __post_init__(self) -> None:
        if self.width < 1:
            raise InvalidOptions(f"hypernet width must be at least 1, got {self.width}")

    def init(self, generator: torch.Generator) -> Params:
        """Encoders that keep variance, and emitting layers of zeros: what they add to is the start."""
        params = self.init_body(generator)
        d, width, gain = self.backbone.feature_dim, self.width, math.sqrt(2)
        params |= init_dense("set.example", d, width, generator, gain=gain)
        params |= init_dense("set.class", width, width, generator, gain=gain)
        params |= init_dense("set.task", width + _COUNTS, width, generator, gain=gain)
        for name, tensor in take_body(params).items():
            if _is_modulated(name, tensor):
                params |= init_dense(FILM + name, width, len(tensor), generator, gain=0)
        params |= init_dense("head.class", d, width, generator, gain=gain)
        params |= init_dense("head.task", width, width, generator, gain=gain, bias=False)
        return params | init_dense("head.row", width, d + 1, generator, gain=0)

    def adapt(self, params: Params, support: Support, steps: int | None = None, *, differentiable: bool = False) -> Adaptation:
        with torch.set_grad_enabled(differentiable):
            task = self._encode_task(params, self.embed(params, support.inputs), support)
            film = self._emit_film(params, task)
            features = self._modulated_features(params, film, support.inputs)
            state = {**film, **self._emit_head(params, task, class_means(features, support), support.class_mask)}
        with torch.no_grad():
            loss, accuracy = measure_support(self.kind, _answer(state, features), support)
        return Adaptation(state, loss.unsqueeze(1), accuracy.unsqueeze(1))

    def predict(self, params: Params, state: State, queries: Tensor) -> Tensor:
        return _answer(state, self._modulated_features(params, state, queries))

    def explain(self, params: Params, state: State, support: Support, queries: Tensor) -> Tensor:
        """How alike query and example are, as inner product around the task's centre, for members of the predicted class; minus that
        for the runner-up's. The margin of the two is the sum of these, but for what the network added to the rows and the biases."""
        features = self._modulated_features(params, state, queries)
        centre = state[CENTRE].unsqueeze(1)
        kernel = (features - centre) @ (self._modulated_features(params, state, support.inputs) - centre).mT
        best = _answer(state, features).topk(min(2, support.max_way), dim=-1).indices.unsqueeze(2)  # (lanes, n_query, 1, 2)
        is_of = support.targets[:, None, :, None] == best  # (lanes, n_query, n_support, 2)
        sign = is_of[..., 0].to(kernel.dtype) - is_of[..., 1:].any(-1).to(kernel.dtype)
        shares = sign * kernel * class_balanced_weights(support, kernel.dtype).unsqueeze(1)
        return shares / shares.abs().sum(-1, keepdim=True).clamp(min=torch.finfo(shares.dtype).tiny)

    def _encode_task(self, params: Params, features: Tensor, support: Support) -> Tensor:
        """The vector of each task, (lanes, width): a mean over classes of means over examples, so no order and no number of shots
        weighs anything but through the two counts beside it."""
        examples = F.relu(apply_dense(params, "set.example", features))
        classes = F.relu(apply_dense(params, "set.class", class_means(examples, support)))
        ways = support.class_mask.sum(1, keepdim=True).to(features.dtype)
        mean = (classes * support.class_mask.unsqueeze(2)).sum(1) / ways
        shots = support.mask.sum(1, keepdim=True) / ways
        return F.relu(apply_dense(params, "set.task", torch.cat([mean, ways.log(), shots.log()], dim=1)))

    def _emit_film(self, params: Params, task: Tensor) -> State:
        """Each task's own scales and shifts, `film.<name>` (lanes, channels)."""
        modulated = {name for name, tensor in take_body(params).items() if _is_modulated(name, tensor)}
        return {FILM + name: params[BODY + name] + apply_dense(params, FILM + name, task) for name in sorted(modulated)}

    def _modulated_features(self, params: Params, film: State, inputs: Tensor) -> Tensor:
        own = {name.removeprefix(FILM): tensor for name, tensor in film.items() if name.startswith(FILM)}
        return self.backbone.features({**take_body(params), **own}, inputs)

    def _emit_head(self, params: Params, task: Tensor, means: Tensor, class_mask: Tensor) -> State:
        """A row and a bias for each class from its mean feature (lanes, max_way, d), in the light of the task.

        2 (f - m)(c - m) - |c - m|^2 is the squared distance to the class mean c but for a number that all classes share. Around the
        mean m of the means: far from it the two terms are large and their difference loses digits.
        """
        real = class_mask.unsqueeze(2)
        centre = (means * real).sum(1) / class_mask.sum(1, keepdim=True)
        offsets = means - centre.unsqueeze(1)
        hidden = F.relu(apply_dense(params, "head.class", offsets) + apply_dense(params, "head.task", task).unsqueeze(1))
        emitted = apply_dense(params, "head.row", hidden)
        weight = (2 * offsets + emitted[..., :-1]).masked_fill(~real, 0)
        bias = (emitted[..., -1] - offsets.square().sum(2)).masked_fill(~class_mask, 0)
        return {CLASS_WEIGHT: weight, CLASS_BIAS: bias, CLASS_MASK: class_mask.clone(), CENTRE: centre}


def _is_modulated(name: str, tensor: Tensor) -> bool:
    return name.endswith(MODULATED) and tensor.dim() == 1


def _answer(state: State, features: Tensor) -> Tensor:
    """Logits (lanes, n, max_way) of modulated features (lanes, n, d)."""
    scores = (features - state[CENTRE].unsqueeze(1)) @ state[CLASS_WEIGHT].mT + state[CLASS_BIAS].unsqueeze(1)
    return mask_absent_classes(scores, state[CLASS_MASK])
