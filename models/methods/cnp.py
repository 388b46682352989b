"""Conditional neural processes: a network reads the examples, another answers (Garnelo et al. 2018, arXiv:1807.01613).

Each example becomes a representation, the representations are averaged, and a decoder answers a query in the light of the
average (eq. 1 to 3): no gradient step, one pass. Regression is as in the paper, without its variance.

Classification in the paper (section 4.3) joins the averages of the classes end to end, which fixes their number and their
order. Here one decoder, shared by all classes, scores the query against each class's average beside the mean of all classes:
any number of ways, and renaming the classes renames the answer. It reads the query through the encoder too, and how far apart
the two are: from the two alone it had to learn subtraction first, and was at 75.2 % beside 91.0 % on 20-way 1-shot validation
episodes after 150 steps from the embedding of omniglot-protonet (one seed, 30-way 1-shot training).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from models.backbones import Backbone
from models.backbones.lanes import lane_linear
from models.errors import InvalidOptions
from models.learner import Adaptation, Kind
from models.methods.dense import apply_dense, init_dense
from models.methods.objectives import class_balanced_weights, mask_absent_classes, measure_support
from models.methods.protonet import class_means
from models.methods.shared_embedding import SharedEmbedding
from models.support import Params, State, Support

CLASS_REPRESENTATION, CLASS_MASK = "class.representation", "class.mask"
REPRESENTATION = "representation"
SKIP = "decoder.skip.weight"

INITIAL_SHARPNESS = 40.0
"""Of the distance that the decoder of classes starts from: it answers with the nearest average until it has learned more."""

_MAX_NUMBERS = 2**24
"""Numbers in one layer of the decoder for one block of queries: 64 MB."""


@dataclass(frozen=True)
class Cnp(SharedEmbedding):
    """An encoder of examples, an average, and a decoder of queries.

    The adapted state is the average, one of each class for classification. `width` is that of every layer.
    """

    kind: Kind
    backbone: Backbone
    width: int = 128
    n_out: int = 1

    def __post_init__(self) -> None:
        if self.width < 1 or self.n_out < 1:
            raise InvalidOptions(f"cnp needs width >= 1 and n_out >= 1, got {self.width} and {self.n_out}")

    def init(self, generator: torch.Generator) -> Params:
        """Every layer keeps variance; what the decoder adds up has a share of it each; for classes its last layer is silent at first."""
        params = self.init_body(generator)
        width, d = self.width, self.backbone.feature_dim
        is_regression = self.kind == "regression"
        gain = math.sqrt(2)
        params |= init_dense("encoder.first", d + self.n_out if is_regression else d, width, generator, gain=gain)
        params |= init_dense("encoder.last", width, width, generator)
        parts = {"query": d, "average": width} if is_regression else dict.fromkeys(("query", "average", "context", "distance"), width)
        for name, d_in in parts.items():
            params |= init_dense(f"decoder.{name}", d_in, width, generator, gain=gain / math.sqrt(len(parts)), bias=name == "query")
        params |= init_dense("decoder.hidden", width, width, generator, gain=gain)
        params |= init_dense("decoder.last", width, self.n_out if is_regression else 1, generator, gain=1 if is_regression else 0)
        return params if is_regression else {**params, SKIP: torch.full((1, width), -INITIAL_SHARPNESS / width)}

    def adapt(self, params: Params, support: Support, steps: int | None = None, *, differentiable: bool = False) -> Adaptation:
        with torch.set_grad_enabled(differentiable):
            features = self.embed(params, support.inputs)
            state = self._aggregate(self._represent(params, features, support), support)
        with torch.no_grad():
            loss, accuracy = measure_support(self.kind, self._answer(params, state, features), support)
        return Adaptation(state, loss.unsqueeze(1), accuracy.unsqueeze(1), features)

    def predict(self, params: Params, state: State, queries: Tensor) -> Tensor:
        return self._answer(params, state, self.embed(params, queries))

    def explain(self, params: Params, state: State, support: Support, queries: Tensor) -> Tensor:
        """What each example put into the averages, times the gradient of the answer there: its share of the answer to first order.

        A gradient of its own for every query: memory grows with queries times ways.
        """
        with torch.no_grad():
            features = self.embed(params, queries)
            represented = self._represent(params, self.embed(params, support.inputs), support)
        with torch.enable_grad():
            averages = self._averages(state).detach().unsqueeze(1).expand(-1, queries.shape[1], -1, -1).clone().requires_grad_()
            decoded = self._decode(params, features, averages, state.get(CLASS_MASK))
            outputs = mask_absent_classes(decoded.squeeze(3), state[CLASS_MASK]) if self.kind == "classification" else decoded
            (slopes,) = torch.autograd.grad(outputs.max(2).values.sum(), averages)
        groups = support.targets if self.kind == "classification" else torch.zeros_like(support.mask, dtype=torch.int64)
        slopes = slopes.gather(2, groups[:, None, :, None].expand(-1, queries.shape[1], -1, self.width))
        weights = (slopes * represented.unsqueeze(1)).sum(-1) * self._shares(support, represented.dtype).unsqueeze(1)
        return weights / weights.abs().sum(-1, keepdim=True).clamp(min=torch.finfo(weights.dtype).tiny)

    def _represent(self, params: Params, features: Tensor, support: Support) -> Tensor:
        """Each example, with its value for regression, as (lanes, n_support, width): eq. 1."""
        read = torch.cat([features, support.targets], -1) if self.kind == "regression" else features
        return self._encode(params, read)

    def _encode(self, params: Params, read: Tensor) -> Tensor:
        return apply_dense(params, "encoder.last", F.relu(apply_dense(params, "encoder.first", read)))

    def _shares(self, support: Support, dtype: torch.dtype) -> Tensor:
        """How much of its average an example is, (lanes, n_support)."""
        if self.kind == "classification":
            return class_balanced_weights(support, dtype)
        return support.mask.to(dtype) / support.mask.sum(1, keepdim=True)

    def _aggregate(self, represented: Tensor, support: Support) -> State:
        """The averages, eq. 2: the order of the examples is nothing."""
        if self.kind == "classification":
            return {CLASS_REPRESENTATION: class_means(represented, support), CLASS_MASK: support.class_mask.clone()}
        return {REPRESENTATION: (self._shares(support, represented.dtype).unsqueeze(1) @ represented).squeeze(1)}

    def _averages(self, state: State) -> Tensor:
        """(lanes, ways, width); regression has one."""
        return state[CLASS_REPRESENTATION] if self.kind == "classification" else state[REPRESENTATION].unsqueeze(1)

    def _answer(self, params: Params, state: State, features: Tensor) -> Tensor:
        """Logits (lanes, n_query, max_way) or values (lanes, n_query, n_out) of embedded queries, in blocks of queries."""
        averages = self._averages(state)
        n_rows = max(1, _MAX_NUMBERS // max(1, averages.numel()))
        blocks = torch.split(features, n_rows, dim=1)
        decoded = torch.cat([self._decode(params, rows, averages.unsqueeze(1), state.get(CLASS_MASK)) for rows in blocks], dim=1)
        if self.kind == "regression":
            return decoded.squeeze(2)
        return mask_absent_classes(decoded.squeeze(3), state[CLASS_MASK])

    def _decode(self, params: Params, features: Tensor, averages: Tensor, class_mask: Tensor | None) -> Tensor:
        """Eq. 3: features (lanes, n, d) against averages (lanes, n or 1, ways, width) to (lanes, n, ways, n_out or 1).

        The first layer reads its parts joined end to end; it is written as a sum, for the parts have different axes.
        """
        first = apply_dense(params, "decoder.average", averages)
        if class_mask is None:
            first = first + apply_dense(params, "decoder.query", features).unsqueeze(2)
        else:
            encoded = self._encode(params, features)
            context = (averages * class_mask[:, None, :, None]).sum(2) / class_mask.sum(1)[:, None, None]
            first = first + (apply_dense(params, "decoder.query", encoded) + apply_dense(params, "decoder.context", context)).unsqueeze(2)
            distance = (encoded.unsqueeze(2) - averages).abs()
            first = first + apply_dense(params, "decoder.distance", distance)
        hidden = F.relu(apply_dense(params, "decoder.hidden", F.relu(first)))
        decoded = apply_dense(params, "decoder.last", hidden)
        return decoded if class_mask is None else decoded + lane_linear(distance, params[SKIP])
