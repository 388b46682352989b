"""The JSON shapes of what `initializer: "auto"` tried and chose."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field


class ChoiceJson(BaseModel):
    """An initializer version with a number of steps."""

    initializer: str
    version: int
    steps: int


class CandidateJson(ChoiceJson):
    """One that was not tried: for want of time, of examples to hold out, or because it failed."""

    prior: float | None = Field(description="The loss to expect by its card, on classes it was not trained on; null for regression.")
    reason: str = Field(
        description="`budget`: the time was up; `too_slow`: its last trial here took longer than the time that was left; "
        "`nothing_to_hold_out`; or the code of the error it ended with."
    )


class TrialJson(ChoiceJson):
    """One that was tried, and how it answered the examples that were held out of the support set."""

    prior: float | None
    held_out_loss: float | None = Field(description="Negative log likelihood, or squared error; null when nothing was held out.")
    held_out_accuracy: float | None
    n: int = Field(description="Examples that were held out.")
    score: float | None = Field(description="The mean of prior and held-out loss, the prior counting as `prior_examples`; smallest wins.")
    ms: float


class FailureJson(ChoiceJson):
    """One that was chosen, and failed on the whole support set."""

    reason: str = Field(description="The code of the error.")
    detail: str


class SelectionJson(BaseModel):
    """What `auto` tried and chose for this revision. Only `requested` while it is not chosen."""

    requested: Literal["auto"]
    chosen: ChoiceJson | None = Field(description="The version is that of the choice; after a reload `initializer` has a newer one.")
    tried: list[TrialJson] = Field(default_factory=list)
    not_tried: list[CandidateJson] = Field(default_factory=list)
    failed: list[FailureJson] = Field(default_factory=list, description="Chosen before `chosen`, at most two, and why they gave way.")
    held_out_examples: int | None = None
    prior_examples: float | None = None
    budget_ms: float | None = None
    ms: float | None = None
