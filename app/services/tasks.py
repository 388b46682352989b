"""Tasks: create, read, revise, wait for, delete. Every method sees the caller's own live tasks only (404 otherwise)."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from time import monotonic

from sqlalchemy.ext.asyncio import AsyncSession

from app import telemetry
from app.cache.keys import adaptation_topic, deleted_topic
from app.cache.signals import Signals
from app.cache.states import StateCache
from app.db import adaptations, rows, tasks
from app.db.ids import new_id
from app.db.session import Database
from app.db.tables import AdaptationRow, TaskRow
from app.db.tasks import Inserted
from app.domain import Caller, InitializerInfo, Page, Status, SupportSet, Task, TaskOptions
from app.engine.interface import Engine
from app.errors import InvalidBody, Issue, Unavailable
from app.services.candidates import Offer, choose_offer, list_offers, name_offer
from app.services.direct_start import DirectStart
from app.services.fingerprint import fingerprint
from app.services.initializers import InitializerService
from app.services.own_tasks import require_task, task_not_found
from app.services.queue_port import JobQueue
from app.services.readaptation import Readaptation
from app.services.requests import NewTask, Removal
from app.services.selection import AUTO
from app.services.selection_report import ask_for_choice
from app.services.serving import ServingMemory
from app.services.support_revision import revise_support
from app.services.support_rules import check_examples, check_options, check_queries, check_warm_start
from app.services.task_reads import read_task
from app.settings import Settings

_MAX_TRIES = 3
"""Of a new task, whose initializer is reloaded elsewhere or whose equal is deleted while it is inserted."""

_FIRST_LOOK_S, _RECHECK_S = 0.03, 1.0
"""A waiter looks at the row when it is told to, this long after it began to wait in case it was told before, and then once a second, for
signals may be lost. Most are told within the first time, and look once."""


class TaskService:
    """The tenant's side of a task."""

    def __init__(
        self,
        database: Database,
        cache: StateCache,
        signals: Signals,
        engine: Engine,
        queue: JobQueue,
        initializers: InitializerService,
        memory: ServingMemory,
        settings: Settings,
        direct: DirectStart,
    ) -> None:
        self._database, self._cache, self._signals, self._engine = database, cache, signals, engine
        self._initializers, self._memory, self._settings = initializers, memory, settings
        self._outbox, self._direct = Readaptation(database, queue), direct

    async def create(self, caller: Caller, new: NewTask) -> tuple[Task, bool]:
        """Validates, stores and enqueues; True when a task was made, False when an equal live one already exists.

        The row is committed before the job is enqueued. When the queue cannot be reached after the commit the task is still
        accepted: the row is the outbox and the sweeper enqueues it. Raises NotFound initializer_not_found, InvalidSupport
        (`#/support/...`), InvalidQuery (`#/query/...`), InvalidOptions (`#/options/...`), InvalidBody (`#/ttl_s`), Unavailable.
        """
        offer = await self._find_offer(new)
        for _ in range(_MAX_TRIES):
            task, inserted = await self._insert(caller, new, offer)
            if inserted is Inserted.NEW:
                telemetry.count_task(task.latest.initializer.name)
                await self._begin(task, new)
                return task, True
            if inserted is Inserted.EQUAL and (equal := await self._find_equal(fingerprint(caller, offer.mark, new))) is not None:
                return equal, False
            offer = await self._find_offer(new, anew=True)
        raise Unavailable("What this task is made from came and went at the same moment; try again.", code="database_unavailable")

    async def get(self, caller: Caller, task_id: str) -> Task:
        """A live task of the caller. Raises NotFound task_not_found."""
        return self._memory.notice((await read_task(self._database, caller, task_id)).task)

    async def list(
        self, caller: Caller, *, after: str | None = None, limit: int = 50, status: Status | None = None, name: str | None = None
    ) -> Page[Task]:
        """The caller's live tasks, newest first; `after` is the id of the last row of the page before."""
        async with self._database.read() as session:
            page = await tasks.list_tasks(session, caller.key_id, _now(), after=after, limit=limit, status=status, name=name)
        for task in page.rows:
            self._memory.notice(task)
        return page

    async def delete(self, caller: Caller, task_id: str) -> None:
        """Removes the task with all it owns, also while it adapts: that adaptation then ends without a trace. Raises NotFound."""
        try:
            async with self._database.write() as session:
                if not await tasks.delete_task(session, caller.key_id, task_id, _now()):
                    raise task_not_found(task_id)
        finally:  # also when the caller leaves while it is committed
            self._memory.forget(task_id)
        self._engine.forget(task_id)
        await self._signals.publish(deleted_topic(task_id))
        with contextlib.suppress(Unavailable):  # nobody can ask for these states any more, and their TTL ends them
            await self._cache.delete_task(task_id)

    async def revise(
        self,
        caller: Caller,
        task_id: str,
        *,
        add: SupportSet | None = None,
        remove: Removal | None = None,
        options: TaskOptions | None = None,
    ) -> Task:
        """A new revision on top of the latest one, on the initializer's current version; the serving one answers until it is ready.

        `options` None keeps the latest ones. Raises InvalidSupport with pointers `#/add/...`, `#/remove/classes/0`,
        `#/remove/indices/0`, NotFound.
        """
        task = await self.get(caller, task_id)
        offer = await self.find_offer(task)
        if add is not None:
            check_examples(add, offer.infos[0], pointer="#/add")
        if options is not None and not offer.is_auto:
            check_options(options, offer.infos[0])
            await self._check_warm_start(options, offer)
        async with self._database.write() as session:
            revision = await _insert_revision(session, caller, task_id, offer, add, remove or Removal(), options)
            revised = await require_task(session, caller, task_id)
        await self._outbox.enqueue(task_id, revision)
        return revised

    async def wait(self, caller: Caller, task_id: str, revision: int, timeout_s: float) -> Task:
        """The task once `revision` is ready, failed or superseded, or as it stands after timeout_s. Raises NotFound."""
        deadline = monotonic() + timeout_s
        finished = await self._direct.wait(task_id, revision, timeout_s)
        if finished is not None and finished.owner == caller.key_id:
            return self._memory.notice(finished)
        with self._signals.subscribe(adaptation_topic(task_id, revision)) as subscription:
            await subscription.wait(min(timeout_s, _FIRST_LOOK_S))
            while True:
                task = await self.get(caller, task_id)
                left_s = deadline - monotonic()
                if _is_settled(task, revision) or left_s <= 0:
                    return task
                await subscription.wait(min(left_s, _RECHECK_S))

    async def find_offer(self, task: Task) -> Offer:
        """What a new revision of a task is adapted with: its initializer's current version, or what `auto` may choose from."""
        info = await self._initializers.get(task.latest.initializer.name)
        if task.latest.selection is None:
            return name_offer(info)
        current = [each for each in await self._initializers.list() if (each.kind, each.input) == (info.kind, info.input)]
        return Offer(info.input, tuple(current), is_auto=True)

    async def _find_offer(self, new: NewTask, *, anew: bool = False) -> Offer:
        if new.initializer != AUTO:
            return name_offer(await (self._initializers.get if anew else self._initializers.expect)(new.initializer))
        return choose_offer(list_offers(await self._initializers.list(), new.support.labels), new.support.inputs.shape[1:])

    def _check(self, new: NewTask, info: InitializerInfo) -> None:
        if new.query is not None:
            check_queries(new.query, info, max_queries=self._settings.max_queries, pointer="#/query")
        if new.ttl_s is not None and not 1 <= new.ttl_s <= self._settings.max_ttl_s:
            expected = f"expected 1 to {self._settings.max_ttl_s} seconds, got {new.ttl_s}"
            raise InvalidBody(f"ttl_s: {expected}", issues=[Issue("#/ttl_s", expected)])

    async def _check_warm_start(self, options: TaskOptions, offer: Offer) -> None:
        """Under `auto` nobody knows yet whether the learner can; the adaptation will say what became of it."""
        info = offer.infos[0]
        if options.warm_start and not offer.is_auto:
            check_warm_start(options, await self._initializers.abilities(info.ref), info)

    async def _insert(self, caller: Caller, new: NewTask, offer: Offer) -> tuple[Task, Inserted]:
        """Checks and stores, in one transaction. What this process will adapt itself is stored as claimed."""
        info = offer.admit(new.support, new.options)
        self._check(new, info)
        await self._check_warm_start(new.options, offer)
        task = self._draft(caller, new, offer, info, is_claimed=self._direct.has_room)
        values = rows.new_task_to_rows(task, new.support, new.query, fingerprint(caller, offer.mark, new))
        return task, await self._database.transact(tasks.insert_all, tasks.NewTask(values, None if offer.is_auto else info.ref))

    def _draft(self, caller: Caller, new: NewTask, offer: Offer, info: InitializerInfo, *, is_claimed: bool) -> Task:
        now = _now()
        task_id = new_id("task", now)
        latest = rows.new_adaptation(task_id, 1, info, new.support, new.options, now, ask_for_choice() if offer.is_auto else None)
        return Task(
            id=task_id,
            owner=caller.key_id,
            name=new.name,
            metadata=dict(new.metadata),
            created_at=now,
            expires_at=now + timedelta(seconds=new.ttl_s or self._settings.default_ttl_s),
            latest=replace(latest, status=Status.ADAPTING, attempts=1, started_at=now) if is_claimed else latest,
            serving=None,
            has_query=new.query is not None,
        )

    async def _find_equal(self, mark: str) -> Task | None:
        """The live task that an equal request made; one past its time makes room."""
        now = _now()
        async with self._database.write() as session:
            equal = await tasks.find_by_fingerprint(session, mark, now)
            if equal is None:
                await tasks.delete_expired_fingerprint(session, mark, now)
        return equal

    async def _begin(self, task: Task, new: NewTask) -> None:
        if task.latest.status is Status.ADAPTING:
            self._direct.start(task, new.support, new.query)
        else:
            await self._outbox.enqueue(task.id, task.latest.revision)


async def _insert_revision(
    session: AsyncSession,
    caller: Caller,
    task_id: str,
    offer: Offer,
    add: SupportSet | None,
    remove: Removal,
    options: TaskOptions | None,
) -> int:
    task, latest = await _lock_latest(session, caller, task_id)
    stored = await tasks.find_examples(session, task_id, latest.support_id)
    if stored is None:
        raise RuntimeError(f"Task {task_id} has no support set {latest.support_id}. This is a bug.")
    support = revise_support(rows.support_from(stored), add, remove)
    chosen = options if options is not None else rows.options_from_json(latest.options)
    info = offer.admit(support, chosen)
    task.latest_revision += 1
    task.fingerprint = None
    await tasks.insert_examples(session, rows.examples_to_values(task_id, support.inputs, support.labels))
    selection = ask_for_choice() if offer.is_auto else None
    queued = rows.new_adaptation(task_id, task.latest_revision, info, support, chosen, _now(), selection)
    session.add(AdaptationRow(**rows.new_adaptation_to_values(queued, rows.examples_id(support.inputs, support.labels))))
    await session.flush()
    return task.latest_revision


async def _lock_latest(session: AsyncSession, caller: Caller, task_id: str) -> tuple[TaskRow, AdaptationRow]:
    task = await tasks.lock_task(session, task_id)
    latest = await adaptations.find_adaptation(session, task_id, task.latest_revision) if task is not None else None
    if task is None or latest is None or task.owner != caller.key_id:
        raise task_not_found(task_id)
    return task, latest


def _is_settled(task: Task, revision: int) -> bool:
    return task.latest.revision > revision or task.latest.status in (Status.READY, Status.FAILED)


def _now() -> datetime:
    return datetime.now(UTC)
