"""The JSON shapes of the door: what requests may say, and what answers look like. Only shapes; decoding is in `decode`."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, StrictFloat, StrictInt, StringConstraints, WithJsonSchema

from app.api import examples
from app.api.inputs import EXAMPLE_PIXELS, INPUTS_SCHEMA

# PostgreSQL cannot store NUL in text, so no text may carry it, whichever database is behind.
Text = Annotated[str, StringConstraints(strict=True, max_length=256, pattern=r"^[^\x00]*$")]
Name = Annotated[str, StringConstraints(strict=True, max_length=200, pattern=r"^[^\x00]*$")]
LabelJson = Text | StrictInt | StrictFloat
Inputs = Annotated[Any, WithJsonSchema(INPUTS_SCHEMA)]
PositiveInt = Annotated[StrictInt, Field(ge=1, le=2**31 - 1)]
Index = Annotated[StrictInt, Field(ge=0, le=2**31 - 1)]
# The values are what the JSON parser made, so they need no second check; how deep they go, `arrivals.check_metadata` knows.
Metadata = Annotated[dict[Text, Any], WithJsonSchema({"type": "object", "additionalProperties": True})]


class Request(BaseModel):
    """Base of every request body: an unknown key is a fault, not a wish that is silently dropped."""

    model_config = ConfigDict(extra="forbid")


class SupportJson(Request):
    """Labelled examples: as many labels as inputs."""

    inputs: Inputs
    labels: list[LabelJson] = Field(description="A class name per input, or a number for a regression initializer.", max_length=100_000)


class OptionsJson(Request):
    """Choices for the inner loop; what is left out is the initializer's default."""

    steps: PositiveInt | None = Field(None, description="Inner steps, 1 to the initializer's `max_steps`.")


class TaskRequest(Request):
    """A new few-shot task."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "example": {
                "initializer": "omniglot-protonet",
                "name": "two strokes",
                "support": {"inputs": {"encoding": "images", "data": EXAMPLE_PIXELS}, "labels": ["bar", "dash"]},
                "options": {},
                "metadata": {"customer": "acme"},
                "ttl_s": 3600,
            }
        },
    )

    initializer: Text = Field(description="Name of an initializer; its current version is used.")
    support: SupportJson
    query: Inputs = Field(None, description="Inputs to predict as soon as the task is ready; GET .../predictions has the answers.")
    options: OptionsJson = Field(default_factory=OptionsJson)
    name: Name | None = None
    metadata: Metadata = Field(default_factory=dict, description="Yours: stored and returned as it is, at most 16 KB.")
    ttl_s: PositiveInt | None = Field(None, description="Seconds until the task is forgotten.")


class RemoveJson(Request):
    """What to take out of the support set."""

    classes: list[LabelJson] = Field(default_factory=list, max_length=10_000)
    indices: list[Index] = Field(default_factory=list, max_length=100_000, description="Positions in the latest revision.")


class SupportRequest(Request):
    """Examples and classes to add and to remove; the result is a new revision."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "example": {
                "add": {"inputs": {"encoding": "images", "data": EXAMPLE_PIXELS}, "labels": ["bar", "dash"]},
                "remove": {"indices": [0]},
            }
        },
    )

    add: SupportJson | None = None
    remove: RemoveJson | None = None
    options: OptionsJson | None = Field(None, description="Left out: the options of the latest revision.")


class PredictionsRequest(Request):
    """Inputs to predict."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"example": {"inputs": {"encoding": "images", "data": EXAMPLE_PIXELS[:1]}}})

    inputs: Inputs


class ReloadRequest(Request):
    """How tasks move to the new version: each when it is next used (lazy), or all now (eager)."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"example": {"readapt": "lazy"}})

    readapt: Literal["lazy", "eager"] = "lazy"


class KeyRequest(Request):
    """A new API key."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"example": {"name": "laptop", "scopes": ["user"]}})

    name: Name
    scopes: list[Literal["user", "admin"]] = Field(default=["user"], min_length=1, max_length=2)


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
    timings_ms: dict[str, float]
    attempts: int
    error: Fault | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    expires_at: datetime | None
    retry_after_ms: int | None = Field(None, description="Present while the task is not finished: look again after this long.")
    links: dict[str, str]


class PredictionJson(BaseModel):
    """One answer. `probabilities` for classification, `value` for regression."""

    label: str | float | None
    probabilities: dict[str, float] | None = None
    value: list[float | None] | None = None


class PredictionSetJson(BaseModel):
    """Answers in the order of the inputs, and the version that made them."""

    model_config = ConfigDict(json_schema_extra={"example": examples.PREDICTIONS})

    id: str | None = Field(description="Set when the answers are kept.")
    task_id: str
    source: Literal["query", "recorded", "live"]
    revision: int
    initializer: InitializerName
    predictions: list[PredictionJson]
    timings_ms: dict[str, float]
    created_at: datetime


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
