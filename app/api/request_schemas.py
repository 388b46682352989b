"""The JSON shapes of requests: what bodies may say. Only shapes; decoding is in `decode`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictFloat, StrictInt, StringConstraints, WithJsonSchema

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
    warm_start: StrictBool = Field(
        False, description="Start from the weights of your most similar task, if that is better on held-out examples; see `warm_start`."
    )


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

    initializer: Text = Field(
        description="Name of an initializer, whose current version is used; or `auto`: the service tries which does best, see `selection`."
    )
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

    name: Name = Field(description="What it is for; not all of it blank.", min_length=1)
    scopes: list[Literal["user", "admin"]] = Field(default=["user"], min_length=1, max_length=2)
