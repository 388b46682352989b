"""The card of an initializer: what it is, what it accepts, how it was made and how good it is. Plain JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from typing import Any, Literal

from models.errors import CheckpointCorrupt

FORMAT_VERSION = 1
JsonObject = dict[str, Any]


@dataclass(frozen=True)
class InputSpec:
    """What one example is. Images are (channels, height, width) with bright ink on a dark ground, in `range`."""

    kind: Literal["image", "vector"]
    shape: tuple[int, ...]
    ink: Literal["bright"] | None
    range: tuple[float, float] | None


@dataclass(frozen=True)
class Limits:
    """What a support set may hold: the bounds the service checks at its door. note: why they are where they are, for who meets them."""

    max_way: int
    max_support: int
    min_way: int
    max_steps: int
    note: str | None = None


@dataclass(frozen=True)
class Card:
    """Everything about an initializer but its weights.

    learner: the spec for `build_learner`; accuracy: one object per measured setting (see `models.evaluation`);
    confidence: how to read probabilities and a score of the unknown off the logits (see `models.confidence`);
    golden: a small episode and its outputs (see `models.golden`); sha256: hex digest of the weights file.
    """

    name: str
    learner: JsonObject
    input: InputSpec
    limits: Limits
    default_steps: int
    recipe: JsonObject
    data: str
    seed: int
    meta_steps: int
    git_revision: str | None
    trained_with: str
    train_seconds: float
    hardware: str
    torch_version: str
    created_at: str
    accuracy: list[JsonObject] = field(default_factory=list)
    confidence: JsonObject = field(default_factory=dict)
    golden: JsonObject = field(default_factory=dict)
    sha256: str = ""
    format_version: int = FORMAT_VERSION

    def to_json(self) -> JsonObject:
        """The card as plain JSON values."""
        return asdict(self)


def parse_card(card: Mapping[str, Any]) -> Card:
    """The card in `card`. Raises CheckpointCorrupt naming what is missing, unknown or of another format."""
    if not isinstance(card, Mapping):
        raise CheckpointCorrupt(f"a card must be a JSON object, got {type(card).__name__}")
    if card.get("format_version") != FORMAT_VERSION:
        raise CheckpointCorrupt(f"card.format_version must be {FORMAT_VERSION}, got {card.get('format_version')!r}")
    values = dict(card)
    _check_keys(Card, values, "card")
    values["input"] = _parse_input(values["input"])
    values["limits"] = _parse_limits(values["limits"])
    return Card(**values)


def _parse_input(value: Any) -> InputSpec:
    _check_keys(InputSpec, value, "card.input")
    limits = value["range"]
    return InputSpec(value["kind"], tuple(value["shape"]), value["ink"], None if limits is None else (limits[0], limits[1]))


def _parse_limits(value: Any) -> Limits:
    _check_keys(Limits, value, "card.limits")
    bounds = {name: number for name, number in value.items() if name != "note"}
    if not all(type(number) is int and number >= 0 for number in bounds.values()):
        raise CheckpointCorrupt(f"card.limits must be whole numbers of at least 0, got {bounds}")
    if not isinstance(value.get("note"), str | None):
        raise CheckpointCorrupt(f"card.limits.note must be a string, got {value['note']!r}")
    return Limits(**value)


def _check_keys(shape: type[Card] | type[InputSpec] | type[Limits], value: Any, where: str) -> None:
    if not isinstance(value, Mapping):
        raise CheckpointCorrupt(f"{where} must be a JSON object, got {type(value).__name__}")
    known = {f.name for f in fields(shape)}
    required = {f.name for f in fields(shape) if f.default is MISSING and f.default_factory is MISSING}
    if missing := required - set(value):
        raise CheckpointCorrupt(f"{where} lacks {sorted(missing)}")
    if unknown := set(value) - known:
        raise CheckpointCorrupt(f"{where} has unknown keys {sorted(unknown)}; this version knows {sorted(known)}")
