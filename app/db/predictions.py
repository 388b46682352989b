"""Queries on kept predictions."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, select
from sqlalchemy.ext.asyncio import AsyncSession

from app.db.inserts import insert_many
from app.db.rows import prediction_set_from, prediction_set_to_values
from app.db.tables import PredictionRow
from app.domain import Page, PredictionSet


def insert_all(connection: Connection, answers: Sequence[PredictionSet]) -> None:
    """Keeps sets of answers; the same id is kept once."""
    insert_many(connection, PredictionRow, list(map(prediction_set_to_values, answers)), ["id"])


async def list_predictions(session: AsyncSession, task_id: str, *, after: str | None, limit: int) -> Page[PredictionSet]:
    """Oldest first; reads one row more than asked to know whether more follow."""
    query = select(PredictionRow).where(PredictionRow.task_id == task_id).order_by(PredictionRow.id).limit(limit + 1)
    if after is not None:
        query = query.where(PredictionRow.id > after)
    rows = (await session.scalars(query)).all()
    return Page(rows=tuple(map(prediction_set_from, rows[:limit])), has_more=len(rows) > limit)
