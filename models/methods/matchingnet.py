"""Matching networks: a query takes the labels of the support examples it resembles (Vinyals et al. 2016, arXiv:1606.04080).

The attention is a softmax over cosine similarities (eq. 1 and section 2.1.1) of a meta-learned sharpness, one over the
paper's missing temperature; a class's probability is what its members get of it together. The paper's support sets are
balanced. Here one over the class's count weighs each example, so that a class does not win by its number of shots.

With `full_context` the examples see each other before they are compared (section 2.1.2). The paper reads the support
set with a bidirectional LSTM, whose answer depends on the order of a set that has none. Here self-attention does it:
permuting the examples permutes their embeddings. The query reads the support set `read_steps` times by attention, as in
the paper, but adds what it read to its embedding where the paper has an LSTM cell. Both start by changing nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from models.backbones import Backbone
from models.backbones.lanes import lane_linear
from models.errors import InvalidOptions
from models.learner import Adaptation, Kind
from models.methods.class_attention import log_attention, log_shares, sign_by_class, sum_by_class
from models.methods.objectives import measure_support
from models.methods.shared_embedding import SharedEmbedding
from models.support import Params, State, Support

LOG_SHARPNESS = "attention.log_sharpness"
FEATURE, TARGET, MASK, CLASS_MASK = "example.feature", "example.target", "example.mask", "class.mask"
PROJECTIONS = ("context.ask", "context.offer", "context.take", "read.ask", "read.take")


@dataclass(frozen=True)
class MatchingNet(SharedEmbedding):
    """An embedding whose adapted state is the embedded support set itself.

    sharpness: what the meta-learned factor of the cosines starts from.
    full_context: examples are embedded in the light of the whole support set; read_steps: how often a query reads it.
    """

    KINDS: ClassVar[tuple[Kind, ...]] = ("classification",)

    backbone: Backbone
    kind: Kind = "classification"
    sharpness: float = 100.0
    full_context: bool = False
    read_steps: int = 2

    def __post_init__(self) -> None:
        if not 0 < self.sharpness < math.inf:
            raise InvalidOptions(f"matchingnet sharpness must be a positive number, got {self.sharpness}")
        if self.read_steps < 1:
            raise InvalidOptions(f"matchingnet read_steps must be at least 1, got {self.read_steps}")

    def init(self, generator: torch.Generator) -> Params:
        params = self.init_body(generator)
        params[LOG_SHARPNESS] = torch.tensor(math.log(self.sharpness))
        if self.full_context:
            width = self.backbone.feature_dim
            for name in PROJECTIONS:
                is_output = name.endswith("take")  # zeros: the context is nothing until it has learned something
                params[name] = torch.zeros(width, width) if is_output else torch.randn(width, width, generator=generator) / width**0.5
        return params

    def adapt(self, params: Params, support: Support, steps: int | None = None, *, differentiable: bool = False) -> Adaptation:
        with torch.set_grad_enabled(differentiable):
            embedded = self.embed(params, support.inputs)
            features = self._see_each_other(params, embedded, support) if self.full_context else embedded
            state = {FEATURE: features.masked_fill(~support.mask.unsqueeze(2), 0), TARGET: support.targets.clone()}
            state |= {MASK: support.mask.clone(), CLASS_MASK: support.class_mask.clone()}
        with torch.no_grad():  # each example sees itself, so this is how far classes overlap
            answers = self._answer(state, self._attend(params, state, embedded))
            loss, accuracy = measure_support(self.kind, answers, support)
        return Adaptation(state, loss.unsqueeze(1), accuracy.unsqueeze(1), embedded)

    def predict(self, params: Params, state: State, queries: Tensor) -> Tensor:
        return self._answer(state, self._attend(params, state, self.embed(params, queries)))

    def explain(self, params: Params, state: State, support: Support, queries: Tensor) -> Tensor:
        """The attention itself; that on the members of other classes speaks against the predicted one."""
        attention = self._attend(params, state, self.embed(params, queries))
        return sign_by_class(attention.exp(), state[TARGET], self._answer(state, attention).argmax(-1))

    def _attend(self, params: Params, state: State, features: Tensor) -> Tensor:
        """Log of the attention of embedded queries (lanes, n_query, d) on the support set, (lanes, n_query, n_support)."""
        shares = log_shares(state[TARGET], state[MASK], state[CLASS_MASK], features.dtype)
        if self.full_context:
            features = self._read(params, features, state[FEATURE], shares)
        cosines = F.normalize(features, dim=-1) @ F.normalize(state[FEATURE], dim=-1).mT
        return log_attention(cosines * params[LOG_SHARPNESS].exp(), shares)

    def _answer(self, state: State, attention: Tensor) -> Tensor:
        return sum_by_class(attention, state[TARGET], state[MASK], state[CLASS_MASK])

    def _see_each_other(self, params: Params, features: Tensor, support: Support) -> Tensor:
        """Support features (lanes, n_support, d) with what each one takes from all."""
        shares = log_shares(support.targets, support.mask, support.class_mask, features.dtype)
        asked, offered = lane_linear(features, params["context.ask"]), lane_linear(features, params["context.offer"])
        return features + lane_linear(_mix(asked, offered, features, shares), params["context.take"])

    def _read(self, params: Params, features: Tensor, support_features: Tensor, shares: Tensor) -> Tensor:
        """Query features (lanes, n_query, d) with what they take from the support set, read again in the light of each reading."""
        seen = features
        for _ in range(self.read_steps):
            read = _mix(lane_linear(seen, params["read.ask"]), support_features, support_features, shares)
            seen = features + lane_linear(read, params["read.take"])
        return seen


def _mix(asked: Tensor, offered: Tensor, values: Tensor, shares: Tensor) -> Tensor:
    """Scaled dot-product attention (Vaswani et al. 2017, arXiv:1706.03762): (lanes, n, d) of `values` (lanes, n_support, d)."""
    scores = asked @ offered.mT / asked.shape[-1] ** 0.5
    return log_attention(scores, shares).exp() @ values
