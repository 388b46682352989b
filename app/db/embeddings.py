"""Queries on task embeddings: the vector of one adaptation, and those of all tasks it may be compared with."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import and_, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from app.db.tables import AdaptationRow, TaskRow
from app.domain import InitializerRef

_SERVING = and_(AdaptationRow.task_id == TaskRow.id, AdaptationRow.revision == TaskRow.serving_revision)


async def find_embedding(session: AsyncSession, task_id: str, revision: int) -> bytes | None:
    """The vector of one adaptation; None when it has none."""
    mine = (AdaptationRow.task_id == task_id, AdaptationRow.revision == revision)
    return await session.scalar(select(AdaptationRow.embedding).where(*mine))


async def list_embedded(session: AsyncSession, owner: str, ref: InitializerRef, now: datetime, limit: int) -> Sequence[str]:
    """This owner's live tasks that are served by this version and have a vector, newest first."""
    mine = (TaskRow.owner == owner, or_(TaskRow.expires_at.is_(None), TaskRow.expires_at > now))
    same = (AdaptationRow.initializer_name == ref.name, AdaptationRow.initializer_version == ref.version)
    query = select(TaskRow.id).join(AdaptationRow, _SERVING).where(*mine, *same, AdaptationRow.embedding.is_not(None))
    return (await session.scalars(query.order_by(TaskRow.id.desc()).limit(limit))).all()


async def read_embeddings(session: AsyncSession, task_ids: Sequence[str], ref: InitializerRef) -> dict[str, bytes]:
    """The vectors that serve these tasks, by task; a task that another version serves by now is left out.

    Asked for by id, a few hundred at a time: one statement with all of them and an order made PostgreSQL sort ten thousand vectors for
    every page.
    """
    same = (AdaptationRow.initializer_name == ref.name, AdaptationRow.initializer_version == ref.version)
    query = select(TaskRow.id, AdaptationRow.embedding).join(AdaptationRow, _SERVING).where(TaskRow.id.in_(task_ids), *same)
    return {task_id: embedding for task_id, embedding in await session.execute(query) if embedding is not None}
