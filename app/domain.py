"""The values of the service, frozen and free of torch: what the doors decode to and the services speak in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Generic, Literal, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Label = str | float
"""A class name, or a number for regression."""

Scope = Literal["user", "admin"]
Ability = Literal["embed", "explain", "restart"]
"""What a learner may be able to do besides adapting and predicting: see `models.learner`."""

WarmStartCode = Literal["kept", "no_neighbour", "nothing_to_hold_out", "not_better", "unusable", "not_supported"]
"""What became of a warm start. unusable: the neighbour's weights are gone, do not fit, or failed on the whole support set."""

T = TypeVar("T")


class Status(StrEnum):
    """Where an adaptation stands. `failed` is final; the others move to the right, and a redelivered job repeats `adapting`."""

    QUEUED = "queued"
    ADAPTING = "adapting"
    READY = "ready"
    FAILED = "failed"


class InitializerRef(NamedTuple):
    """One version of one initializer; every answer names it.

    A tuple, as a StateKey is: tables look both up several times a prediction, and a dataclass has its hash and equality in Python.
    """

    name: str
    version: int

    def __str__(self) -> str:
        return f"{self.name}@{self.version}"


@dataclass(frozen=True)
class InputSpec:
    """What an initializer reads: kind `image` (channels, height, width in [0, 1], ink bright) or `vector`."""

    kind: Literal["image", "vector"]
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Limits:
    """What an initializer accepts; see its card."""

    min_way: int
    max_way: int
    max_support: int
    max_steps: int


@dataclass(frozen=True)
class InitializerInfo:
    """An initializer version as the service knows it: its card, read without torch."""

    ref: InitializerRef
    kind: Literal["classification", "regression"]
    input: InputSpec
    limits: Limits
    default_steps: int
    sha256: str
    card: Mapping[str, Any]


@dataclass(frozen=True)
class SupportSet:
    """Labelled examples as decoded at the door: inputs (n, *input shape) float32 or uint8, one label per input."""

    inputs: Array
    labels: tuple[Label, ...]

    @property
    def classes(self) -> tuple[str, ...]:
        """The distinct class names in sorted order: class index i of the engine is classes[i]."""
        return tuple(sorted({str(label) for label in self.labels}))


@dataclass(frozen=True)
class TaskOptions:
    """Choices of the client for the inner loop; None means the initializer's own default."""

    steps: int | None = None
    warm_start: bool = False


class StateKey(NamedTuple):
    """The name of one adapted state in every cache. Same key, same tensors (law 5)."""

    task_id: str
    revision: int
    initializer: InitializerRef

    def __str__(self) -> str:
        return f"{self.task_id}:r{self.revision}:{self.initializer}"


@dataclass(frozen=True)
class AdaptJob:
    """What the engine needs for one lane: arrays only.

    inputs (n_support, *input shape) float32; targets (n_support,) int64 class index, or (n_support, n_out) float32
    for regression, where n_way is 0. start: the weights to start from, safetensors bytes; None is the initializer's own.
    """

    key: StateKey
    inputs: Array
    targets: Array
    n_way: int
    steps: int
    start: bytes | None = None


@dataclass(frozen=True)
class Phases:
    """Where the milliseconds went: waiting for the device, to it and back in a batch, on the device, and turning results into bytes."""

    queue_ms: float = 0.0
    batch_ms: float = 0.0
    device_ms: float = 0.0
    encode_ms: float = 0.0
    lanes: int = 1


@dataclass(frozen=True)
class Adapted:
    """The outcome of one lane: safetensors bytes, and the support loss and accuracy before each step and after the last.

    embedding: the task as a vector, float32; None when the learner embeds nothing.
    """

    state: bytes
    loss: tuple[float, ...]
    accuracy: tuple[float, ...]
    phases: Phases
    embedding: Array | None = None


@dataclass(frozen=True)
class StartTrial:
    """Weights to start from, as safetensors bytes, and the held-out loss from the usual start and from these; NaN when n_held_out is 0."""

    start: bytes
    cold: float
    warm: float
    n_held_out: int


@dataclass(frozen=True)
class Answers:
    """Predictions for some queries, in their order.

    values: (n_query, n_way) probabilities in the order of `SupportSet.classes`, or (n_query, n_out) for regression.
    unknown: (n_query,) how likely each query is of no class of the task; None where the initializer has no figures for it.
    weights: (n_query, n_support) signed, how each support example drove each answer; only where it was asked for.
    """

    values: Array
    phases: Phases
    unknown: Array | None = None
    weights: Array | None = None


@dataclass(frozen=True)
class Caller:
    """Who asks: the id of the API key and what it may do."""

    key_id: str
    scopes: frozenset[Scope]


@dataclass(frozen=True)
class WarmStart:
    """What became of the wish to start from a similar task's weights: which task, the held-out losses, and why it was kept or not.

    code: the reason in one stable word; None in a row that is older than these words.
    """

    kept: bool
    reason: str
    from_task: str | None = None
    cold: float | None = None
    warm: float | None = None
    code: WarmStartCode | None = None


@dataclass(frozen=True)
class Adaptation:
    """One run of an initializer on one revision of a task's support set, as stored."""

    task_id: str
    revision: int
    status: Status
    initializer: InitializerRef
    options: TaskOptions
    classes: tuple[str, ...]
    class_counts: Mapping[str, int]
    n_support: int
    attempts: int
    created_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None
    loss: tuple[float, ...] = ()
    accuracy: tuple[float, ...] = ()
    timings_ms: Mapping[str, float] = field(default_factory=dict)
    error_code: str | None = None
    error_detail: str | None = None
    warm_start: WarmStart | None = None
    selection: Mapping[str, Any] | None = None  # what `auto` tried and chose, see `app.services.choosing`; None for a named initializer


@dataclass(frozen=True)
class Task:
    """A tenant's few-shot problem: the latest adaptation says its status, the serving one answers."""

    id: str
    owner: str
    name: str | None
    metadata: Mapping[str, Any]
    created_at: datetime
    expires_at: datetime | None
    latest: Adaptation
    serving: Adaptation | None
    has_query: bool = False


@dataclass(frozen=True)
class Evidence:
    """A support example that drove an answer: its index in the support set of the serving revision, and its signed weight."""

    index: int
    label: Label
    weight: float


@dataclass(frozen=True)
class Prediction:
    """One answer: the label, each label's probability (or the value, for regression).

    unknown: how likely the query is of no class of the task, in [0, 1]; None where the initializer cannot say.
    explanation: the support examples of largest weight, largest first; None unless it was asked for.
    """

    label: Label
    probabilities: Mapping[str, float] | None = None
    value: Sequence[float] | None = None
    unknown: float | None = None
    explanation: tuple[Evidence, ...] | None = None


@dataclass(frozen=True)
class PredictionSet:
    """Answers to one request, with the version that made them and where the time went. `id` is set when recorded."""

    task_id: str
    revision: int
    initializer: InitializerRef
    predictions: Sequence[Prediction]
    timings_ms: Mapping[str, float]
    created_at: datetime
    id: str | None = None
    source: Literal["query", "recorded", "live"] = "live"


@dataclass(frozen=True)
class Page(Generic[T]):
    """A page of a list: the rows and whether more follow after the last one."""

    rows: tuple[T, ...]
    has_more: bool


def as_float32(array: Array) -> Array:
    """Contiguous float32; uint8 is read as 0 to 255 and scaled to [0, 1]."""
    scale = np.float32(1 / 255) if array.dtype == np.uint8 else np.float32(1)
    return np.ascontiguousarray(array, dtype=np.float32) * scale
