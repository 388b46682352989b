"""Which adaptation of a task answers, or why none does; and what is remembered of it for a moment."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from time import monotonic

from app.cache.keys import ADAPTATION_TOPICS, DELETED_TOPICS
from app.cache.signals import Signals
from app.domain import Adaptation, Caller, InitializerInfo, InitializerRef, Status, Task
from app.errors import Conflict

_MAX_REMEMBERED = 4096


@dataclass(frozen=True)
class Serving:
    """The adaptation that answers a task's queries, its initializer, and the newer version that the task should move to."""

    adaptation: Adaptation
    info: InitializerInfo
    newer: InitializerRef | None = None


def require_serving(task: Task) -> Adaptation:
    """The adaptation that serves. Raises Conflict task_not_ready (retry_after_s set), or adaptation_failed when none ever will."""
    if task.serving is not None:
        return task.serving
    latest = task.latest
    if latest.status is Status.FAILED:
        raise Conflict(f"The adaptation failed ({latest.error_code}): {latest.error_detail}", code="adaptation_failed")
    raise Conflict(f"The task is {latest.status}; no revision is ready yet.", code="task_not_ready", retry_after_s=1)


@dataclass(frozen=True)
class Remembered:
    """What served a task a moment ago, for its owner only. latest: the version that the task's latest revision names. due_s: when it is
    to be read again, so that nobody has to wait for that at `until_s`."""

    owner: str
    serving: Serving
    latest: InitializerRef
    expires_at: datetime | None
    due_s: float
    until_s: float

    @property
    def is_due(self) -> bool:
        """Whether it is to be read again, while it still answers."""
        return monotonic() >= self.due_s

    def holds_for(self, caller: Caller) -> bool:
        """Whether the caller may still be answered by it."""
        is_alive = self.expires_at is None or datetime.now(UTC) < self.expires_at
        return self.owner == caller.key_id and is_alive and monotonic() < self.until_s


class Reading:
    """A read of one task that is under way."""

    is_overtaken = False


class ServingMemory:
    """Spares a prediction its questions to the database: what serves a task is read at most twice in ttl_s.

    A task deleted in this process is forgotten before the deletion is answered, and a revision that became ready at the latest when this
    process says so. Other processes tell by signal; while none can be heard nothing is answered from here, and ttl_s bounds what a
    lost one costs. A read that was under way when its task was forgotten is not kept.
    """

    def __init__(self, signals: Signals, *, ttl_s: float = 1.0) -> None:
        self._signals, self.ttl_s = signals, ttl_s
        self._remembered: dict[str, Remembered] = {}
        self._readings: defaultdict[str, set[Reading]] = defaultdict(set)
        for topics in (ADAPTATION_TOPICS, DELETED_TOPICS):
            signals.listen(topics, self._on_signal)

    def find(self, caller: Caller, task_id: str) -> Remembered | None:
        """What serves the caller's task, unless it must be read."""
        known = self._remembered.get(task_id)
        return known if known is not None and known.holds_for(caller) and self._signals.is_listening else None

    @contextmanager
    def reading(self, task_id: str) -> Iterator[Reading]:
        """Around the read of a task whose serving adaptation is kept afterwards."""
        reading = Reading()
        self._readings[task_id].add(reading)
        try:
            yield reading
        finally:
            self._readings[task_id].discard(reading)
            if not self._readings[task_id]:
                del self._readings[task_id]

    def keep(self, reading: Reading, task: Task, serving: Serving) -> None:
        """Remembers what was read, inside `reading`, unless the task changed meanwhile, a newer revision is known, or it should move."""
        known = self._remembered.get(task.id)
        is_older = known is not None and known.serving.adaptation.revision > serving.adaptation.revision
        if reading.is_overtaken or is_older or serving.newer is not None:
            return
        self._remembered.pop(task.id, None)  # so that the first of the dict is the one read longest ago
        if len(self._remembered) >= _MAX_REMEMBERED:
            del self._remembered[next(iter(self._remembered))]
        now_s = monotonic()
        times_s = now_s + self.ttl_s / 2, now_s + self.ttl_s
        self._remembered[task.id] = Remembered(task.owner, serving, task.latest.initializer, task.expires_at, *times_s)

    def notice(self, task: Task) -> Task:
        """The task, which is about to be shown: whoever sees what serves it is not answered by an older revision afterwards."""
        known = self._remembered.get(task.id)
        if known is not None and (task.serving is None or task.serving.revision > known.serving.adaptation.revision):
            self.forget(task.id)
        return task

    def forget(self, task_id: str) -> None:
        """The next prediction reads the task, and so do those whose read is under way."""
        self._remembered.pop(task_id, None)
        for reading in self._readings.get(task_id, ()):
            reading.is_overtaken = True

    async def _on_signal(self, topic: str) -> None:
        self.forget(topic.split(":")[1])
