"""`Prefer: respond-async, wait=N` (RFC 7240): how long a client is willing to wait for an answer, and waiting that long."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Sequence
from dataclasses import dataclass

from app.api.deps import Door
from app.domain import Caller, Status, Task
from app.errors import Unavailable

_WAIT = re.compile(r'wait\s*=\s*"?(\d{1,9})"?', re.IGNORECASE)
FINISHED = frozenset({Status.READY, Status.FAILED})


@dataclass(frozen=True)
class Preference:
    """What is honoured of a Prefer header: wait_s None when the client did not ask to wait."""

    wait_s: float | None = None
    respond_async: bool = False

    @property
    def applied(self) -> str:
        """The value of Preference-Applied; empty when nothing was applied."""
        parts = ["respond-async"] if self.respond_async else []
        return ", ".join(parts if self.wait_s is None else [*parts, f"wait={self.wait_s:g}"])


def parse_prefer(headers: Sequence[str], max_wait_s: float) -> Preference:
    """The preferences we know; unknown and malformed ones are ignored, as the RFC asks. The first of two equal ones counts."""
    wait_s, respond_async = None, False
    for token in (part.partition(";")[0].strip() for header in headers for part in header.split(",")):
        match = _WAIT.fullmatch(token)
        if match and wait_s is None:
            wait_s = min(float(match[1]), max_wait_s)
        respond_async = respond_async or token.lower() == "respond-async"
    return Preference(wait_s, respond_async)


async def wait_for_task(door: Door, caller: Caller, task: Task, wait_s: float | None) -> Task:
    """The task when it is finished or wait_s is over. Ends early when the process is told to stop, or nobody can say any more what became
    of the task: it was accepted, and whoever is told that it was not would send his examples again."""
    if not wait_s or task.latest.status in FINISHED:
        return task
    waiting = asyncio.ensure_future(door.tasks.wait(caller, task.id, task.latest.revision, wait_s))
    stopping = asyncio.ensure_future(door.gate.wait_closed())
    try:
        await asyncio.wait({waiting, stopping}, return_when=asyncio.FIRST_COMPLETED)
        with contextlib.suppress(Unavailable):
            return waiting.result() if waiting.done() else task
        return task
    finally:
        waiting.cancel()
        stopping.cancel()
