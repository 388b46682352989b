"""What the service answers, as frozen values. Fields the client does not know are left alone, so it outlives additions."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, overload

import numpy as np
import numpy.typing as npt

NPZ = "application/x-npz"


@dataclass(frozen=True)
class WarmStart:
    """What became of a warm start: whether it was kept and why, from which task, and the held-out losses of both starts.

    code: the reason in one stable word: kept, no_neighbour, nothing_to_hold_out, not_better, unusable or not_supported.
    """

    kept: bool
    reason: str
    from_task: str | None = None
    cold: float | None = None
    warm: float | None = None
    code: str | None = None


@dataclass(frozen=True)
class TaskInfo:
    """A task as it stood when it was last read.

    loss and accuracy: on the support set, before each inner step and after the last. error: (code, detail) when it failed.
    selection: what `auto` tried and chose, as the service tells it; None for a task that named its initializer.
    """

    id: str
    status: str
    revision: int
    initializer: str
    version: int
    classes: Mapping[str, int]
    n_support: int
    name: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    loss: tuple[float | None, ...] = ()
    accuracy: tuple[float | None, ...] = ()
    timings_ms: Mapping[str, float] = field(default_factory=dict)
    error: tuple[str, str] | None = None
    serving_revision: int | None = None
    warm_start: WarmStart | None = None
    selection: Mapping[str, Any] | None = None

    @property
    def is_finished(self) -> bool:
        """Whether the latest revision is ready or failed."""
        return self.status in {"ready", "failed"}


@dataclass(frozen=True)
class Evidence:
    """A support example that drove an answer: its index in the support set of the revision that answered, and its signed weight."""

    index: int
    label: Any
    weight: float


@dataclass(frozen=True)
class Predictions:
    """Answers in the order of the queries.

    labels: class names, or numbers for regression; classes: the columns of probabilities (n_query, n_way), in the order the service
    names them; values (n_query, n_out) for regression. The one that does not apply is empty.
    unknown: (n_query,) how likely each query is of no class of the task; NaN where the initializer has no figures for it.
    explanations: per query the support examples of largest weight, largest first; empty unless asked for.
    """

    labels: tuple[Any, ...]
    classes: tuple[str, ...]
    probabilities: npt.NDArray[np.float64]
    values: npt.NDArray[np.float64]
    initializer: str
    version: int
    revision: int
    timings_ms: Mapping[str, float]
    id: str | None = None
    source: str = "live"
    explanations: tuple[tuple[Evidence, ...], ...] = ()
    unknown: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class SimilarTask:
    """A task near to another one. parts: each part's own distance (centre, spread; for regression relation too)."""

    id: str
    distance: float
    parts: Mapping[str, float]
    revision: int
    classes: Mapping[str, int]
    n_support: int
    name: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Neighbourhood(Sequence[SimilarTask]):
    """The tasks nearest to a task, nearest first: a sequence of them, and what they were found among.

    compared: how many tasks were compared; has_more: older ones were left out. measure: the name of the distance; its description tells
    how it is to be read. initializer, version and revision: what the task itself was embedded by.
    """

    tasks: tuple[SimilarTask, ...]
    compared: int
    has_more: bool
    measure: str
    description: str
    initializer: str
    version: int
    revision: int

    @overload
    def __getitem__(self, index: int) -> SimilarTask: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[SimilarTask, ...]: ...

    def __getitem__(self, index: int | slice) -> SimilarTask | tuple[SimilarTask, ...]:
        return self.tasks[index]

    def __len__(self) -> int:
        return len(self.tasks)


@dataclass(frozen=True)
class Initializer:
    """An initializer the service offers: its current version, what it reads and what it accepts."""

    name: str
    version: int
    kind: str
    input_shape: tuple[int, ...]
    limits: Mapping[str, int]
    card: Mapping[str, Any]


def read_task(body: Mapping[str, Any]) -> TaskInfo:
    """A task from its JSON."""
    return TaskInfo(
        id=body["id"],
        status=body["status"],
        revision=body["revision"],
        initializer=body["initializer"]["name"],
        version=body["initializer"]["version"],
        classes=body["support"]["classes"],
        n_support=body["support"]["n_support"],
        name=body["name"],
        metadata=body["metadata"],
        loss=tuple(body["loss"]),
        accuracy=tuple(body["accuracy"]),
        timings_ms=body["timings_ms"],
        error=(body["error"]["code"], body["error"]["detail"]) if body["error"] else None,
        serving_revision=body["serving"]["revision"] if body["serving"] else None,
        warm_start=_read_warm_start(body.get("warm_start")),
        selection=body.get("selection"),
    )


def _read_warm_start(body: Mapping[str, Any] | None) -> WarmStart | None:
    if body is None:
        return None
    held_out = body["held_out"] or {}
    return WarmStart(body["kept"], body["reason"], body["from_task"], held_out.get("cold"), held_out.get("warm"), body.get("code"))


def read_predictions(body: Mapping[str, Any]) -> Predictions:
    """A set of predictions from its JSON."""
    rows = body["predictions"]
    classes = tuple(rows[0].get("probabilities") or ()) if rows else ()
    return Predictions(
        labels=tuple(row["label"] for row in rows),
        classes=classes,
        probabilities=np.array([[row["probabilities"][name] for name in classes] for row in rows], dtype=np.float64).reshape(len(rows), -1),
        values=np.array([row.get("value") or [] for row in rows], dtype=np.float64).reshape(len(rows), -1),
        initializer=body["initializer"]["name"],
        version=body["initializer"]["version"],
        revision=body["revision"],
        timings_ms=body["timings_ms"],
        id=body["id"],
        source=body["source"],
        unknown=np.array([row.get("unknown") for row in rows], dtype=np.float64),
        explanations=tuple(_read_evidence(row["explanation"]) for row in rows) if rows and "explanation" in rows[0] else (),
    )


def read_prediction_arrays(content: bytes, headers: Mapping[str, str]) -> Predictions:
    """A set of predictions from its .npz file and the response's headers: what its JSON gives."""
    with np.load(io.BytesIO(content), allow_pickle=False) as stored:
        arrays: dict[str, npt.NDArray[Any]] = {name: stored[name] for name in stored.files}
    values, classes = arrays["values"].astype(np.float64), tuple(arrays.get("classes", np.zeros(0, "U")).tolist())
    nothing = np.zeros((len(values), 0))
    return Predictions(
        labels=tuple(classes[i] for i in values.argmax(axis=1)) if classes else tuple(values[:, 0].tolist()),
        classes=classes,
        probabilities=values if classes else nothing,
        values=nothing if classes else values,
        initializer=headers["innerloop-initializer"],
        version=int(headers["innerloop-initializer-version"]),
        revision=int(headers["innerloop-revision"]),
        timings_ms=_read_timings_ms(headers.get("server-timing", "")),
        unknown=arrays.get("unknown", np.full(len(values), np.nan)).astype(np.float64),
    )


def _read_timings_ms(server_timing: str) -> dict[str, float]:
    """`decode;dur=0.41, device;dur=2.10` as the service writes it."""
    named = (entry.strip().partition(";dur=") for entry in server_timing.split(",") if ";dur=" in entry)
    return {name: float(duration) for name, _, duration in named}


def _read_evidence(items: Sequence[Mapping[str, Any]]) -> tuple[Evidence, ...]:
    return tuple(Evidence(item["index"], item["label"], item["weight"]) for item in items)


def read_neighbourhood(body: Mapping[str, Any]) -> Neighbourhood:
    """The similar tasks from their JSON."""
    return Neighbourhood(
        tasks=tuple(_read_similar(row) for row in body["data"]),
        compared=body["compared"],
        has_more=body["has_more"],
        measure=body["measure"]["name"],
        description=body["measure"]["description"],
        initializer=body["initializer"]["name"],
        version=body["initializer"]["version"],
        revision=body["revision"],
    )


def _read_similar(body: Mapping[str, Any]) -> SimilarTask:
    return SimilarTask(
        id=body["task_id"],
        distance=body["distance"],
        parts=body["parts"],
        revision=body["revision"],
        classes=body["support"]["classes"],
        n_support=body["support"]["n_support"],
        name=body["name"],
        metadata=body["metadata"],
    )


def read_initializer(body: Mapping[str, Any]) -> Initializer:
    """An initializer from its JSON."""
    return Initializer(body["name"], body["version"], body["kind"], tuple(body["input"]["shape"]), body["limits"], body["card"])
