"""The JSON shapes of answers; those of requests are in `request_schemas`."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from app.api import examples
from app.api.selection_schemas import SelectionJson
from app.domain import WarmStartCode


class InitializerName(BaseModel):
    """The version that made an answer."""

    name: str
    version: int


class SupportSummary(BaseModel):
    """What is in the support set, without the examples."""

    n_support: int
    classes: dict[str, int] = Field(description="Examples per class; empty for regression.")


class Fault(BaseModel):
    """Why an adaptation failed."""

    code: str
    detail: str


class HeldOutJson(BaseModel):
    """Mean loss on held-out examples from each start; null where the inner loop diverged."""

    cold: float | None
    warm: float | None


class WarmStartJson(BaseModel):
    """What became of a warm start."""

    kept: bool = Field(description="Whether the adaptation began with the weights of `from_task`.")
    code: WarmStartCode | None = Field(
        description="The reason in one stable word. `unusable`: the weights of `from_task` are gone, do not fit, or failed on the whole "
        "support set. Null for a revision made before there were codes."
    )
    reason: str = Field(description="The same for a reader, with the figures.")
    from_task: str | None = Field(description="The most similar task; null when there was none to start from.")
    held_out: HeldOutJson | None = Field(description="Null when nothing was compared.")


class TaskJson(BaseModel):
    """A task: the latest adaptation says its status, the serving one answers predictions."""

    model_config = ConfigDict(json_schema_extra={"example": examples.TASK})

    id: str
    status: Literal["queued", "adapting", "ready", "failed"]
    name: str | None
    metadata: dict[str, JsonValue]
    initializer: InitializerName
    revision: int
    serving: dict[str, Any] | None = Field(description="Revision and initializer that answer now; null while none is ready.")
    options: dict[str, Any]
    support: SupportSummary
    has_query: bool
    loss: list[float | None] = Field(
        description="Support loss as the inner loop sees it (before answers are sharpened), before each step and after the last."
    )
    accuracy: list[float | None]
    timings_ms: dict[str, float] = Field(
        description="Phases of the latest adaptation: `queue_wait` until a worker took it, `choose` where `auto` chose, `queue`, `batch`, "
        "`device` and `encode` of the adaptation from the usual start, `warm_start` what looking for another start cost on top, `store`."
    )
    selection: SelectionJson | None = Field(None, description="Null for a task that named its initializer.")
    warm_start: WarmStartJson | None = Field(None, description="Null while not finished, and for a task that did not ask for it.")
    attempts: int
    error: Fault | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    expires_at: datetime | None
    retry_after_ms: int | None = Field(None, description="Present while the task is not finished: look again after this long.")
    links: dict[str, str]


class EvidenceJson(BaseModel):
    """A support example that drove an answer."""

    index: int = Field(description="Its position in the support set of the revision that answers.")
    label: str | float
    weight: float = Field(description="Positive: it spoke for the answer. The absolute values over the whole support set sum to one.")


class PredictionJson(BaseModel):
    """One answer. `probabilities` for classification, `value` for regression."""

    label: str | float | None
    probabilities: dict[str, float] | None = None
    value: list[float | None] | None = None
    unknown: float | None = Field(
        None, ge=0, le=1, description="How likely the input is of no class of the task; null where the initializer has no figures for it."
    )
    explanation: list[EvidenceJson] | None = Field(
        None, description="With `explain=true`: at most five support examples, those of largest weight first."
    )


class PredictionSetJson(BaseModel):
    """Answers in the order of the inputs, and the version that made them."""

    model_config = ConfigDict(json_schema_extra={"example": examples.PREDICTIONS})

    id: str | None = Field(description="Set when the answers are kept.")
    task_id: str
    source: Literal["query", "recorded", "live"]
    revision: int
    initializer: InitializerName
    predictions: list[PredictionJson]
    timings_ms: dict[str, float] = Field(
        description="`decode` of the body, `queue` for the device, `batch` to the device and back, `device`, `encode` of the answers; "
        "`total` of all but `decode`. Of answers that were kept: what was known when they were."
    )
    created_at: datetime


class MeasureJson(BaseModel):
    """How a distance is to be read."""

    name: str
    description: str


class NeighbourJson(BaseModel):
    """A similar task."""

    task_id: str
    name: str | None
    metadata: dict[str, JsonValue]
    revision: int = Field(description="The revision that was compared: the one that answers predictions.")
    support: SupportSummary
    distance: float = Field(description="The root of the sum of the squares of the parts; 0 for equal support sets.")
    parts: dict[str, float] = Field(description="How far the centres and the spreads lie apart; for regression the relations too.")
    created_at: datetime
    links: dict[str, str]


class NeighbourhoodJson(BaseModel):
    """Similar tasks, nearest first."""

    model_config = ConfigDict(json_schema_extra={"example": examples.SIMILAR})

    task_id: str
    revision: int
    initializer: InitializerName
    measure: MeasureJson
    compared: int = Field(description="How many tasks were compared: yours that are ready, on the same initializer version.")
    has_more: bool = Field(description="Older tasks were left out, because only the 10,000 newest are compared.")
    data: list[NeighbourJson]


class TaskPage(BaseModel):
    """A page of tasks, newest first."""

    data: list[TaskJson]
    first_id: str | None
    last_id: str | None
    has_more: bool


class PredictionPage(BaseModel):
    """A page of kept predictions, oldest first."""

    data: list[PredictionSetJson]
    first_id: str | None
    last_id: str | None
    has_more: bool


class InitializerJson(BaseModel):
    """An initializer: what it reads, what it accepts, and its card."""

    name: str
    version: int = Field(description="The current version.")
    kind: Literal["classification", "regression"]
    input: dict[str, Any]
    limits: dict[str, int]
    default_steps: int
    sha256: str
    versions: list[int] | None = Field(None, description="Every stored version; only when one initializer is asked for.")
    card: dict[str, Any]


class InitializerList(BaseModel):
    """Every initializer, by name."""

    data: list[InitializerJson]


class ReloadJson(BaseModel):
    """What a reload did."""

    name: str
    old_version: int | None
    new_version: int
    changed: bool
    readapting: int


class KeyJson(BaseModel):
    """An API key without its secret."""

    id: str
    prefix: str
    name: str
    scopes: list[Literal["user", "admin"]]
    created_at: datetime
    revoked_at: datetime | None


class KeyList(BaseModel):
    """Every API key, oldest first."""

    data: list[KeyJson]


class NewKeyJson(BaseModel):
    """A new API key. This is the only time it is shown."""

    key: str
    name: str
    scopes: list[Literal["user", "admin"]]


class HealthJson(BaseModel):
    """The state of the process, and of each part that it needs."""

    status: str
    checks: dict[str, str] = Field(default_factory=dict)


class IssueJson(BaseModel):
    """One fault: where, and what was expected there."""

    pointer: str
    detail: str


class Problem(BaseModel):
    """RFC 9457 problem details. Switch on `code`; it is stable."""

    model_config = ConfigDict(json_schema_extra={"example": examples.PROBLEM})

    type: str
    title: str
    status: int
    detail: str
    instance: str
    code: str
    errors: list[IssueJson]
    trace_id: str
