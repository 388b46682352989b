"""In-context learning: a transformer reads the support set and answers in the same pass (GPICL, Kirsch et al. 2022,
arXiv:2212.04458; CAML, Fifty et al. 2024, arXiv:2310.10971). Nothing is fitted: adapting is reading.

Support examples attend to each other, not causally: the set has no order. Queries attend to the support examples and never to
each other, so what the support set means is computed once, and the adapted state is each layer's keys and values of it.

CAML joins to each image a fixed code of its class index, chosen equiangular so that no class is nearer to another. Yet the network
sees which code a class got, and has as many codes as it was trained with: renaming the classes changes the answer a little,
and more ways than codes cannot be served. Here no class has a code. The attention among support examples is told one thing, whether two
are of the same class, and each head has a meta-learned favour for its kin; and a query's logit for a class is the attention
that the class's examples get from it, in the last layer's space, together. So renaming the classes renames the answer, exactly, and any
number of ways is served. Two copies of an example attend like one: classes have the same weight whatever their shots.

For regression an example's token carries its value, and the answer is read from the query's token.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from models.backbones import Backbone
from models.backbones.lanes import EPSILON
from models.errors import InvalidOptions
from models.learner import Adaptation, Kind
from models.methods.class_attention import log_attention, log_shares, sign_by_class, sum_by_class
from models.methods.dense import apply_dense, init_dense
from models.methods.objectives import measure_support
from models.methods.set_attention import Kinship, attend, attention_weights
from models.methods.shared_embedding import SharedEmbedding
from models.support import Params, State, Support

LOG_SHARPNESS = "answer.log_sharpness"
CLASS_MASK, MASK, TARGET, CODE = "class.mask", "example.mask", "example.target", "example.code"

INITIAL_SHARPNESS = 100.0
"""Of the last softmax, over cosines: the tokens of one alphabet are within a few degrees of each other."""

WIDENING = 2
"""How much wider than a token the hidden layer of a block is."""


@dataclass(frozen=True)
class InContext(SharedEmbedding):
    """A set transformer over the backbone's features.

    layers, heads, width: of the transformer; heads divide the width. n_out: numbers in a value, for regression.
    """

    kind: Kind
    backbone: Backbone
    layers: int = 2
    heads: int = 4
    width: int = 128
    n_out: int = 1

    def __post_init__(self) -> None:
        if min(self.layers, self.heads, self.n_out) < 1 or self.width < 1 or self.width % self.heads:
            got = f"{self.layers}, {self.heads}, {self.n_out} and {self.width}"
            raise InvalidOptions(f"incontext needs layers, heads and n_out of at least 1 and a width that heads divide, got {got}")

    def init(self, generator: torch.Generator) -> Params:
        """Layers begin by changing nothing, so that examples are at first compared by their features (ReZero's way to train fast)."""
        params = self.init_body(generator)
        params |= init_dense("token", self.backbone.feature_dim, self.width, generator)
        for layer in range(1, self.layers + 1):
            for name in ("query", "key", "value"):
                params |= init_dense(f"layer{layer}.{name}", self.width, self.width, generator, bias=False)
            params |= init_dense(f"layer{layer}.take", self.width, self.width, generator, gain=0, bias=False)
            params |= init_dense(f"layer{layer}.widen", self.width, WIDENING * self.width, generator, gain=math.sqrt(2))
            params |= init_dense(f"layer{layer}.narrow", WIDENING * self.width, self.width, generator, gain=0)
            if self.kind == "classification":
                # Half of the heads begin by looking at their own class, half at the others: alike they would have to part first.
                params[f"layer{layer}.favour"] = torch.linspace(2, -2, self.heads) if self.heads > 1 else torch.zeros(1)
        if self.kind == "classification":
            return {**params, LOG_SHARPNESS: torch.tensor(math.log(INITIAL_SHARPNESS))}
        params |= init_dense("target", self.n_out, self.width, generator, gain=math.sqrt(self.width / self.n_out) / 4, bias=False)
        return params | init_dense("answer", self.width, self.n_out, generator)

    def adapt(self, params: Params, support: Support, steps: int | None = None, *, differentiable: bool = False) -> Adaptation:
        with torch.set_grad_enabled(differentiable):
            tokens = self._tokenize(params, support.inputs)
            state = self._read_support(params, tokens, support)
        with torch.no_grad():
            loss, accuracy = measure_support(self.kind, self._answer(params, state, tokens), support)
        return Adaptation(state, loss.unsqueeze(1), accuracy.unsqueeze(1))

    def predict(self, params: Params, state: State, queries: Tensor) -> Tensor:
        return self._answer(params, state, self._tokenize(params, queries))

    def explain(self, params: Params, state: State, support: Support, queries: Tensor) -> Tensor:
        """The attention on each example, averaged over heads and layers, the classifying one included; minus it for the examples of
        other classes than the predicted one."""
        stream = self._read(params, state, self._tokenize(params, queries))
        seen = [self._look(params, layer, tokens, state) for layer, tokens in enumerate(stream[:-1], start=1)]
        if self.kind == "regression":
            return torch.stack(seen).mean(0)
        last = self._attend_last(params, state, stream[-1])
        return sign_by_class(torch.stack([*seen, last.exp()]).mean(0), state[TARGET], self._sum(state, last).argmax(-1))

    def _tokenize(self, params: Params, inputs: Tensor) -> Tensor:
        return apply_dense(params, "token", self.embed(params, inputs))

    def _read_support(self, params: Params, tokens: Tensor, support: Support) -> State:
        """The adapted state: keys and values of every layer, and for classification what the last attention compares with."""
        state: State = {MASK: support.mask.clone()}
        if self.kind == "classification":
            state |= {TARGET: support.targets.clone(), CLASS_MASK: support.class_mask.clone()}
        else:
            tokens = tokens + apply_dense(params, "target", support.targets)
        hidden = ~support.mask.unsqueeze(2)
        for layer in range(1, self.layers + 1):
            seen = _normalise(tokens)
            for name in ("key", "value"):
                state[f"example.{name}{layer}"] = apply_dense(params, f"layer{layer}.{name}", seen).masked_fill(hidden, 0)
            kinship = None
            if self.kind == "classification":
                kinship = Kinship(params[f"layer{layer}.favour"], support.targets, support.targets)
            elif layer == self.layers:
                return state  # nobody looks at the examples after the last layer
            tokens = self._block(params, layer, tokens, state, kinship)
        return {**state, CODE: _normalise(tokens).masked_fill(hidden, 0)}

    def _block(self, params: Params, layer: int, tokens: Tensor, state: State, kinship: Kinship | None = None) -> Tensor:
        """One layer: what the tokens (lanes, n, width) take from the support set, then what each makes of it alone."""
        key, value, shares = state[f"example.key{layer}"], state[f"example.value{layer}"], _shares(state, tokens.dtype)
        query = apply_dense(params, f"layer{layer}.query", _normalise(tokens))
        taken = attend(query, key, value, shares, self.heads, kinship)
        tokens = tokens + apply_dense(params, f"layer{layer}.take", taken)
        widened = F.relu(apply_dense(params, f"layer{layer}.widen", _normalise(tokens)))
        return tokens + apply_dense(params, f"layer{layer}.narrow", widened)

    def _look(self, params: Params, layer: int, tokens: Tensor, state: State) -> Tensor:
        """The attention of query tokens in a layer, (lanes, n_query, n_support), averaged over its heads."""
        query = apply_dense(params, f"layer{layer}.query", _normalise(tokens))
        return attention_weights(query, state[f"example.key{layer}"], _shares(state, tokens.dtype), self.heads).mean(1)

    def _read(self, params: Params, state: State, tokens: Tensor) -> list[Tensor]:
        """The tokens of queries before the first layer and after each."""
        stream = [tokens]
        for layer in range(1, self.layers + 1):
            stream.append(self._block(params, layer, stream[-1], state))
        return stream

    def _answer(self, params: Params, state: State, tokens: Tensor) -> Tensor:
        read = self._read(params, state, tokens)[-1]
        if self.kind == "regression":
            return apply_dense(params, "answer", read)
        return self._sum(state, self._attend_last(params, state, read))

    def _attend_last(self, params: Params, state: State, read: Tensor) -> Tensor:
        """Log of the attention that classifies, (lanes, n_query, n_support): of one head, over cosines."""
        cosines = _normalise(read) @ state[CODE].mT / self.width
        return log_attention(cosines * params[LOG_SHARPNESS].exp(), _shares(state, read.dtype))

    def _sum(self, state: State, attention: Tensor) -> Tensor:
        return sum_by_class(attention, state[TARGET], state[MASK], state[CLASS_MASK])


def _normalise(tokens: Tensor) -> Tensor:
    """Each token to zero mean and unit variance (Ba et al. 2016, arXiv:1607.06450)."""
    return F.layer_norm(tokens, tokens.shape[-1:], eps=EPSILON)


def _shares(state: State, dtype: torch.dtype) -> Tensor:
    """What every score of an example has added, (lanes, n_support): see `log_shares`; zero for regression, minus infinity for padding."""
    if CLASS_MASK in state:
        return log_shares(state[TARGET], state[MASK], state[CLASS_MASK], dtype)
    return torch.zeros_like(state[MASK], dtype=dtype).masked_fill(~state[MASK], -torch.inf)
