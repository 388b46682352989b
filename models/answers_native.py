"""Answers of a batch in one call of C (`models/native/answers.h`), for CPUs: the features, the head, and how sure that is.

A lane is a row of addresses that was made when its state became resident, so a batch looks at no tensor. Python gives its interpreter
away once, for the call; every torch operator would do it again, and beside a busy event loop each time is up to a millisecond.
`models.answers` is the reference, and the way everywhere else.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from models.answers import AnsweredLane
from models.backbones import RunsInC
from models.backbones.conv4_native import Network, count_parts
from models.confidence import N_CUES, Confidence
from models.errors import InvalidQuery
from models.learner import BODY, Learner, ReadsRows, RowHead
from models.resident import Arrangement, PackedPlace, Resident, Row
from models.support import Params, State

Array = npt.NDArray[Any]

MOST_PER_PART = 16
"""Queries of a lane that are worked on at once: their maps stay in a cache, and memory does not grow with the batch."""


@dataclass(frozen=True)
class NativeAnswers:
    """What the C needs besides states.

    names: the tensors of a row in their order, "" where there is none. shared: those that states leave out. reading: a `Reading`.
    bases: what kernels differ from that states may hold packed (see `models.packed_weights`).
    """

    network: Network
    input_shape: tuple[int, ...]
    names: tuple[str, ...]
    shared: Params
    reading: Array
    number: np.dtype[Any]
    bases: Mapping[str, Tensor]

    def make_row(self, memory: Tensor, arrangement: Arrangement) -> Row:
        """A state in `memory`, which must outlive the row."""
        numbers, is_behind, n_values = self._plans(arrangement)
        return Row((numbers + is_behind * memory.data_ptr()).tobytes(), n_values)

    @cached_property
    def _plans(self) -> Callable[[Arrangement], tuple[Array, Array, int]]:
        """Of the few arrangements that most states share."""
        return lru_cache(maxsize=256)(self._plan_row)

    def _plan_row(self, arrangement: Arrangement) -> tuple[Array, Array, int]:
        """The numbers of a row, which of them are counted from the beginning of the memory, and how many values an answer has."""
        places, shared = arrangement.places, self._addresses
        addresses = [places[name].begin if name in places else shared[name] for name in self.names]
        head, kernels = self.names[-2], self.names[: len(self.network.shapes) : 3]
        packed = {name: place.bits for name in kernels if isinstance(place := places.get(name), PackedPlace)}
        bases = [self._bases[name] if name in packed else 0 for name in kernels]
        n_values = places[head].shape[1] if head in places else len(self.shared[head])
        numbers = (*addresses, n_values, 0, arrangement.n_bytes, max(packed.values(), default=0), *bases)
        is_behind = [*(name in places for name in self.names), False, True, *[False] * (2 + len(bases))]
        return np.array(numbers, dtype=np.int64), np.array(is_behind, dtype=np.int64), n_values

    def answer(self, residents: Sequence[Resident], queries: Sequence[Array]) -> list[AnsweredLane]:
        """Every lane's answers to its queries (n_query, *input_shape). Raises InvalidQuery, MemoryError."""
        rows, lanes = [resident.row for resident in residents], [self._take(lane) for lane in queries]
        asked, n_queries, n_values = list[int](), 0, 0
        for row, lane in zip(rows, lanes, strict=True):
            asked += (lane.ctypes.data, len(lane), n_queries, n_values)
            n_queries, n_values = n_queries + len(lane), n_values + len(lane) * row.n_values
        values, unknown = np.empty(n_values, self.number), np.empty(n_queries if self._scores_unknown else 0, self.number)
        longest = max(map(len, lanes))
        per_part = min(MOST_PER_PART, count_parts(len(lanes), longest))
        packed = b"".join([row.addresses for row in rows]), struct.pack(f"{len(asked)}q", *asked)
        self.network.call("answer", len(lanes), per_part, self.reading, *packed, values, unknown, -(-longest // per_part))
        return self._split(rows, lanes, values, unknown)

    def _split(self, rows: Sequence[Row], lanes: Sequence[Array], values: Array, unknown: Array) -> list[AnsweredLane]:
        """Every lane's part of the answers: views, for these are small beside the batch that they were made from."""
        is_finite = bool(np.isfinite(values).all())
        answered, query, value = [], 0, 0
        for row, lane in zip(rows, lanes, strict=True):
            until_query, until_value = query + len(lane), value + len(lane) * row.n_values
            mine = values[value:until_value].reshape(len(lane), row.n_values)
            score = unknown[query:until_query] if self._scores_unknown else None
            answered.append(AnsweredLane(mine, score, None, is_finite or bool(np.isfinite(mine).all())))
            query, value = until_query, until_value
        return answered

    def _take(self, queries: Array) -> Array:
        """As the C reads them."""
        if queries.shape[1:] != self.input_shape:
            raise InvalidQuery(f"expected queries of shape {self.input_shape}, got {queries.shape[1:]}")
        return np.ascontiguousarray(queries, self.number)

    @cached_property
    def _addresses(self) -> Mapping[str, int]:
        return {"": 0, **{name: tensor.data_ptr() for name, tensor in self.shared.items()}}

    @cached_property
    def _bases(self) -> Mapping[str, int]:
        return {name: base.data_ptr() for name, base in self.bases.items()}

    @cached_property
    def _scores_unknown(self) -> bool:
        return bool(self.reading[-N_CUES - 2])


def make_native_answers(
    learner: Learner, params: Params, template: State, confidence: Confidence, coarse: Mapping[str, Tensor]
) -> NativeAnswers | None:
    """What answers by states that look like `template`; None where torch has to. coarse: the bases of what is packed in such states."""
    backbone, first = getattr(learner, "backbone", None), next(iter(params.values()))
    if not (isinstance(learner, ReadsRows) and isinstance(backbone, RunsInC)):
        return None
    network, head = backbone.find_native(first.new_empty(1, 0, *backbone.input_shape)), learner.row_head(params)
    if network is None or head is None:
        return None
    prefix = BODY if any(name.startswith(BODY) for name in params) else ""
    body = [prefix + name for name in backbone.parameter_names]
    names = (*body, head.centre, head.rows, head.offsets)
    tensors = {name: template[name][0] if name in template else params[name].detach() for name in names if name}
    if not all(_fits(tensors[name], *laid) for name, laid in zip(body, zip(network.shapes, network.strides, strict=True), strict=True)):
        return None
    if any(tensors[name].dtype != first.dtype for name in tensors) or tensors[head.rows].shape[1:] != (network.feature_dim,):
        return None
    shared = {name: tensor for name, tensor in tensors.items() if name not in template}
    number = np.dtype(str(first.dtype).removeprefix("torch."))
    bases = {name: base for name, base in coarse.items() if name in body}
    return NativeAnswers(network, backbone.input_shape, names, shared, _describe(head, learner.kind, confidence), number, bases)


def _fits(tensor: Tensor, shape: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    return tensor.shape == shape and all(s == t or size == 1 for s, t, size in zip(tensor.stride(), strides, shape, strict=True))


def _describe(head: RowHead, kind: str, confidence: Confidence) -> Array:
    """A `Reading` of answers.h."""
    chooses, nearest = kind == "classification", head.compares == "distance"
    figures = confidence.unknown if chooses and confidence.unknown else ()
    softness = (confidence.scale, confidence.power)
    numbers = (nearest, head.on_sphere, head.scale, head.sharpness, chooses, *softness, bool(figures), *(figures or (0,) * (N_CUES + 1)))
    return np.array(numbers, dtype=np.float64)
