"""Which of a caller's tasks are alike: nearest neighbours by the embedding of the adaptation that serves each task.

An exact scan, no index: 10,000 tasks are some megabytes, and one pass of numpy. `models/task_embedding.py` says what the vectors are.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np

from app.db import embeddings, rows, tasks
from app.db.session import Database
from app.domain import Adaptation, Array, Caller, InitializerInfo, Task
from app.errors import Conflict
from app.services.initializers import InitializerService
from app.services.own_tasks import require_task
from app.services.requests import Neighbour, Neighbourhood
from app.services.serving import require_serving

MAX_COMPARED = 10_000
"""A task is compared with this many others at most: the newest ones."""

_PAGE = 500
"""Vectors in memory at a time: 1 MB of a 64-channel Conv-4's at 28 x 28 pixels."""

PARTS = {"classification": ("centre", "spread"), "regression": ("centre", "spread", "relation")}
"""What the vectors of a kind are made of, in equal parts."""


@dataclass(frozen=True)
class _Candidates:
    """Vectors that were compared: ids, and squared distances (n, n_parts) part by part."""

    ids: tuple[str, ...]
    squares: Array
    has_more: bool

    def nearest(self, limit: int) -> list[int]:
        """Rows by distance; equal ones by id, so that the answer is always the same."""
        return [int(row) for row in np.lexsort((np.array(self.ids), self.squares.sum(1)))[:limit]] if self.ids else []


class SimilarityService:
    """Compares a task with the caller's others on the same initializer version; across versions distances mean nothing."""

    def __init__(self, database: Database, initializers: InitializerService) -> None:
        self._database, self._initializers = database, initializers

    async def similar(self, caller: Caller, task_id: str, *, limit: int = 10) -> Neighbourhood:
        """The nearest ready tasks, nearest first.

        Raises NotFound task_not_found, Conflict task_not_ready, adaptation_failed, not_supported (the learner has no embedding) or
        task_not_embedded (it was adapted before embeddings were kept). Cost: one read of the vectors.
        """
        async with self._database.read() as session:
            serving = require_serving(await require_task(session, caller, task_id))
            stored = await embeddings.find_embedding(session, task_id, serving.revision)
        info = await self._initializers.get(serving.initializer.name, serving.initializer.version)
        if stored is None:
            raise await self._refusal(serving)
        return await self._compare(caller.key_id, serving, info, rows.embedding_from(stored), limit)

    async def nearest(self, owner: str, adaptation: Adaptation, info: InitializerInfo, embedding: Array) -> Neighbour | None:
        """The nearest ready task of `owner` to an adaptation that may not be stored yet; None when there is no other."""
        found = await self._compare(owner, adaptation, info, embedding, 1)
        return next(iter(found.neighbours), None)

    async def _compare(self, owner: str, adaptation: Adaptation, info: InitializerInfo, embedding: Array, limit: int) -> Neighbourhood:
        parts = PARTS[info.kind]
        candidates = await self._scan(owner, adaptation, embedding, len(parts))
        order = candidates.nearest(limit)
        async with self._database.read() as session:
            found = await tasks.find_tasks(session, owner, [candidates.ids[row] for row in order], datetime.now(UTC))
        # Since it was compared a task may have been deleted, or another version may have begun to serve it.
        by_id = {task.id: task for task in found if task and task.serving and task.serving.initializer == adaptation.initializer}
        nearest = [(by_id.get(candidates.ids[row]), candidates.squares[row]) for row in order]
        neighbours = tuple(_neighbour(task, squares, parts) for task, squares in nearest if task is not None)
        return Neighbourhood(adaptation, neighbours, len(candidates.ids), candidates.has_more)

    async def _scan(self, owner: str, adaptation: Adaptation, embedding: Array, n_parts: int) -> _Candidates:
        """Every candidate's squared distance, page by page: the vectors themselves are never all in memory.

        A session for each page: SQLite has four readers, and as many scans would otherwise keep everybody else waiting to their end.
        """
        ref = adaptation.initializer
        async with self._database.read() as session:
            # The task itself may be among them, and one more tells that there are more.
            listed = await embeddings.list_embedded(session, owner, ref, datetime.now(UTC), MAX_COMPARED + 2)
        others = [task_id for task_id in listed if task_id != adaptation.task_id]
        ids: list[str] = []
        squares: list[Array] = [np.zeros((0, n_parts))]
        for start in range(0, min(len(others), MAX_COMPARED), _PAGE):
            async with self._database.read() as session:
                page = await embeddings.read_embeddings(session, others[start : min(start + _PAGE, MAX_COMPARED)], ref)
            fitting = {task_id: vector for task_id, vector in page.items() if len(vector) == 4 * len(embedding)}
            ids += fitting
            squares.append(squared_distances(embedding, b"".join(fitting.values()), n_parts))
        return _Candidates(tuple(ids), np.concatenate(squares), len(others) > MAX_COMPARED)

    async def _refusal(self, serving: Adaptation) -> Conflict:
        if "embed" not in await self._initializers.abilities(serving.initializer):
            return Conflict(f"The learner of {serving.initializer} embeds no tasks, so they cannot be compared.", code="not_supported")
        how = f'adapt the task again, for example by POST /v1/tasks/{serving.task_id}/support with {{"options": {{}}}}'
        return Conflict(f"Revision {serving.revision} was adapted without an embedding; {how}.", code="task_not_embedded")


def squared_distances(embedding: Array, stored: bytes, n_parts: int) -> Array:
    """(n, n_parts) float64: the squared distance to each stored vector, part by part."""
    vectors = rows.embedding_from(stored).reshape(-1, n_parts, len(embedding) // n_parts)
    difference = vectors.astype(np.float64) - embedding.astype(np.float64).reshape(1, n_parts, -1)
    squares: Array = np.square(difference).sum(2)
    return squares


def _neighbour(task: Task, squares: Array, parts: tuple[str, ...]) -> Neighbour:
    distances = dict(zip(parts, np.sqrt(squares).tolist(), strict=True))
    return Neighbour(task, float(np.sqrt(squares.sum())), distances)
