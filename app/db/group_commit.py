"""SQLite's one writer, shared: transactions that wait together are run in one thread, one after another, and committed at once.

A transaction is a function of a connection, so it costs one hop to the thread however many statements it has, and a commit is paid
for once by everybody who waited for the one before. One that raises is undone, and only that one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine

R = TypeVar("R")

Work = Callable[[Connection], R]
"""The statements of one transaction. It blocks, awaits nothing, neither commits nor rolls back, and may be run again after a rollback."""

MAX_GROUP = 256
"""Transactions in one commit: what is committed together is lost together when the machine fails, and waits for each other."""


@dataclass(frozen=True)
class _Waiting:
    work: Work[Any]
    done: asyncio.Future[Any]


class GroupCommit:
    """One owner of one writing connection. engine: a pool of one that begins IMMEDIATE.

    turn: held while the connection writes, for whoever else in this process writes by another one.
    """

    def __init__(self, engine: Engine, turn: asyncio.Lock) -> None:
        self._engine, self._turn = engine, turn
        self._thread = ThreadPoolExecutor(1, "database-writer")
        self._waiting: list[_Waiting] = []
        self._serving: asyncio.Task[None] | None = None

    async def run(self, work: Work[R]) -> R:
        """What `work` returns, once it is committed; what it raises, once it is undone. A caller who leaves does not undo it."""
        done: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(work, done))
        if self._serving is None or self._serving.done():
            self._serving = asyncio.create_task(self._serve(), name="database - group commit")
        return await done

    async def close(self) -> None:
        """Returns when everything that waits has been committed, and closes the connection."""
        while self._serving is not None and not self._serving.done():
            await asyncio.wait([self._serving])
        await asyncio.to_thread(self._thread.shutdown)
        self._engine.dispose()

    async def _serve(self) -> None:
        """Commits groups until nothing waits."""
        while self._waiting:
            async with self._turn:
                group = [each for each in self._waiting[:MAX_GROUP] if not each.done.done()]
                del self._waiting[:MAX_GROUP]
                await self._serve_group(group)

    async def _serve_group(self, group: Sequence[_Waiting]) -> None:
        works = [each.work for each in group]
        outcomes = await asyncio.get_running_loop().run_in_executor(self._thread, commit_together, self._engine, works)
        for each, outcome in zip(group, outcomes, strict=True):
            _settle(each.done, outcome)


def commit_together(engine: Engine, works: Sequence[Work[Any]]) -> list[Any]:
    """What each work returned, or the exception it ended with, as a value.

    One commit, unless one of them fails: then each is run again in a transaction of its own. That is rare, and a savepoint around each
    would cost all of them a half more.
    """
    try:
        with engine.begin() as connection:
            return [work(connection) for work in works]
    except Exception as fault:
        if len(works) == 1:
            return [fault]
    return [outcome for work in works for outcome in commit_together(engine, [work])]


def _settle(done: asyncio.Future[Any], outcome: Any) -> None:
    if done.done():  # its caller has left
        return
    if isinstance(outcome, Exception):
        done.set_exception(outcome)
    else:
        done.set_result(outcome)
