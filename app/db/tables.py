"""The SQL tables. Blobs live in tables of their own, so that listing never loads them; every time is UTC."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, ClassVar

from sqlalchemy import JSON, DateTime, Dialect, ForeignKey, ForeignKeyConstraint, Index, LargeBinary, MetaData, String, TypeDecorator
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}


class UtcDateTime(TypeDecorator[datetime]):
    """An aware datetime in UTC on both databases; SQLite alone would forget the zone."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return value.astimezone(UTC) if value is not None else None

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Table(DeclarativeBase):
    """Base of the tables: names of constraints, and which column type a Python type gets."""

    metadata = MetaData(naming_convention=NAMING)
    type_annotation_map: ClassVar[dict[Any, Any]] = {
        datetime: UtcDateTime(),
        bytes: LargeBinary,
        dict[str, Any]: JSON,
        dict[str, int]: JSON,
        dict[str, float]: JSON,
        list[Any]: JSON,
        list[int]: JSON,
        list[float]: JSON,
        list[str]: JSON,
    }


class ApiKeyRow(Table):
    """An API key: the secret's sha256 only. `id` is the owner of tasks."""

    __tablename__ = "api_keys"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    prefix: Mapped[str] = mapped_column(String(8), unique=True)
    secret_sha256: Mapped[str] = mapped_column(String(64))
    name: Mapped[str] = mapped_column(String(200))
    scopes: Mapped[list[str]]
    created_at: Mapped[datetime]
    revoked_at: Mapped[datetime | None]


class InitializerRow(Table):
    """The pointer a reload swaps. last_version also counts rejected versions, so that a number never means two things."""

    __tablename__ = "initializers"

    name: Mapped[str] = mapped_column(String(100), primary_key=True)
    current_version: Mapped[int | None]
    last_version: Mapped[int]


class InitializerVersionRow(Table):
    """One version, card and weights: every process loads it from here, also long after a newer one became current."""

    __tablename__ = "initializer_versions"

    name: Mapped[str] = mapped_column(ForeignKey("initializers.name", ondelete="CASCADE"), primary_key=True)
    version: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    sha256: Mapped[str] = mapped_column(String(64))  # of card and weights together; the card's own sha256 is of the weights
    card: Mapped[dict[str, Any]]
    weights: Mapped[bytes] = mapped_column(deferred=True)
    created_at: Mapped[datetime]


class TaskRow(Table):
    """A tenant's few-shot problem. The fingerprint is unique while the task is alive and unchanged, else NULL."""

    __tablename__ = "tasks"
    __table_args__ = (Index(None, "owner", "id"), Index(None, "expires_at"))

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    owner: Mapped[str] = mapped_column(String(40))
    name: Mapped[str | None] = mapped_column(String(200))
    task_metadata: Mapped[dict[str, Any]] = mapped_column("metadata")
    fingerprint: Mapped[str | None] = mapped_column(String(64), unique=True)
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime | None]
    latest_revision: Mapped[int]
    serving_revision: Mapped[int | None]
    query_id: Mapped[str | None] = mapped_column(String(64))


class ExamplesRow(Table):
    """A support set or a query set: arrays as raw little-endian bytes. `id` is the sha256 of what is in it."""

    __tablename__ = "examples"

    task_id: Mapped[str] = mapped_column(ForeignKey("tasks.id", ondelete="CASCADE"), primary_key=True)
    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    dtype: Mapped[str] = mapped_column(String(16))
    shape: Mapped[list[int]]
    inputs: Mapped[bytes]
    labels: Mapped[list[Any]]


class AdaptationRow(Table):
    """One run of an initializer version on one revision of a support set. The row is also the job's outbox."""

    __tablename__ = "adaptations"
    __table_args__ = (
        ForeignKeyConstraint(
            ["initializer_name", "initializer_version"],
            ["initializer_versions.name", "initializer_versions.version"],
            name="fk_adaptations_initializer",  # the convention's name is longer than PostgreSQL's 63 characters
        ),
        Index(None, "status", "created_at"),
        Index(None, "initializer_name", "initializer_version"),
    )

    task_id: Mapped[str] = mapped_column(ForeignKey("tasks.id", ondelete="CASCADE"), primary_key=True)
    revision: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    status: Mapped[str] = mapped_column(String(16))
    initializer_name: Mapped[str] = mapped_column(String(100))
    initializer_version: Mapped[int]
    options: Mapped[dict[str, Any]]
    support_id: Mapped[str] = mapped_column(String(64))
    n_support: Mapped[int]
    class_counts: Mapped[dict[str, int]]
    attempts: Mapped[int]
    created_at: Mapped[datetime]
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    loss: Mapped[list[float]]
    accuracy: Mapped[list[float]]
    timings_ms: Mapped[dict[str, float]]
    embedding: Mapped[bytes | None] = mapped_column(deferred=True)  # the task as a vector of little-endian float32
    warm_start: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    selection: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    start: Mapped[bytes | None] = mapped_column(deferred=True)  # the weights a kept warm start began with, safetensors
    error_code: Mapped[str | None] = mapped_column(String(64))
    error_detail: Mapped[str | None]


ADAPTATION_COLUMNS = tuple(column for column in AdaptationRow.__table__.c if column.name not in {"embedding", "start"})
"""Those of an adaptation that are shown: what is as large as its weights is read by who needs it."""


class PredictionRow(Table):
    """Answers that were kept: one row per query set and revision, and one per recorded request."""

    __tablename__ = "predictions"
    __table_args__ = (Index(None, "task_id", "id"),)

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    task_id: Mapped[str] = mapped_column(ForeignKey("tasks.id", ondelete="CASCADE"))
    revision: Mapped[int]
    initializer_name: Mapped[str] = mapped_column(String(100))
    initializer_version: Mapped[int]
    source: Mapped[str] = mapped_column(String(16))
    predictions: Mapped[list[Any]]
    timings_ms: Mapped[dict[str, float]]
    created_at: Mapped[datetime]


metadata = Table.metadata
