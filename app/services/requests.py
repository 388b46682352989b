"""What the doors hand to the services, and what the services hand back beyond the domain's own values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from app.domain import Adaptation, Array, InitializerRef, Scope, SupportSet, Task, TaskOptions


@dataclass(frozen=True)
class NewTask:
    """A decoded `POST /v1/tasks`. `initializer` is a name; the service takes its current version."""

    initializer: str
    support: SupportSet
    query: Array | None = None
    options: TaskOptions = field(default_factory=TaskOptions)
    name: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    ttl_s: int | None = None


@dataclass(frozen=True)
class Removal:
    """What to take out of a support set: whole classes, and examples by their index in the latest revision."""

    classes: tuple[str, ...] = ()
    indices: tuple[int, ...] = ()


@dataclass(frozen=True)
class ReloadOutcome:
    """What a reload did. `old` is None for a name registered for the first time; unchanged files make old == new."""

    old: InitializerRef | None
    new: InitializerRef
    changed: bool
    readapting: int = 0


@dataclass(frozen=True)
class Neighbour:
    """A similar task: its distance, the root of the sum of the squares of `parts`, and each part's own distance."""

    task: Task
    distance: float
    parts: Mapping[str, float]


@dataclass(frozen=True)
class Neighbourhood:
    """The tasks nearest to one adaptation, nearest first, of `compared` tasks; `has_more`: older ones were left out."""

    of: Adaptation
    neighbours: tuple[Neighbour, ...]
    compared: int
    has_more: bool


@dataclass(frozen=True)
class KeyInfo:
    """An API key without its secret."""

    id: str
    prefix: str
    name: str
    scopes: frozenset[Scope]
    created_at: datetime
    revoked_at: datetime | None
