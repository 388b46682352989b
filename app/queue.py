"""The queue of jobs over docket: `memory://` inside one process, `redis://` across machines, behind the same calls.

Jobs run at least once and carry ids only (docket pickles its arguments). The row in SQL is the truth: whatever the
queue loses, the sweeper enqueues again.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from time import monotonic
from types import TracebackType
from typing import Self
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit
from uuid import uuid4

import structlog
from docket import Docket
from key_value.aio.stores.memory import MemoryStore
from redis.exceptions import RedisError

from app.errors import Unavailable
from app.settings import Settings

ADAPT, SWEEP = "adapt", "sweep"
"""The names of the jobs on the wire; `app/jobs.py` has their bodies."""

# docket keeps a finished job's record this long, for looking at it. The job's own record is its row in SQL.
EXECUTION_TTL = timedelta(minutes=1)

FIRST_GAP_S, LONGEST_GAP_S = 1.0, 30.0
"""Between two lines about a Redis that is away; each gap is twice the one before."""
_QUIET_S = 10.0
_log = structlog.get_logger(__name__)

# docket reads without a timeout, so that its blocking reads may block; a Redis that swallows packets would hold a request for ever.
CALL_TIMEOUT_S = 5.0


class DocketQueue:
    """`JobQueue` over docket. `async with` connects it; an empty url is a queue of its own inside this process."""

    def __init__(self, url: str, settings: Settings, name: str = "innerloop-jobs") -> None:
        self._is_embedded = not url or url.startswith("memory://")
        # Next to no result store: a job's result is its row, and a pickled exception in Redis would serve nobody.
        self.docket = Docket(
            name=name,
            url=_with_pool(url or f"memory://{uuid4().hex}", settings),
            execution_ttl=EXECUTION_TTL,
            result_storage=MemoryStore(max_entries_per_collection=1),
        )
        self.docket.register(_adapt_elsewhere, names=[ADAPT])
        self._lines = DocketLines(url)

    @property
    def is_embedded(self) -> bool:
        """Whether the queue lives and dies with this process."""
        return self._is_embedded

    async def __aenter__(self) -> Self:
        logging.getLogger("docket").addHandler(self._lines)
        await self.docket.__aenter__()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None) -> None:
        await self.docket.__aexit__(kind, fault, trace)
        logging.getLogger("docket").removeHandler(self._lines)

    async def enqueue_adaptation(self, task_id: str, revision: int) -> None:
        """Asks for one adaptation; a no-op while the same one waits or runs, and a new job once it has ended.

        Raises Unavailable when Redis is away.
        """
        async with _redis_calls():
            await self.docket.add(ADAPT, key=f"{ADAPT}:{task_id}:{revision}")(task_id, revision)

    async def ping(self) -> None:
        """Raises Unavailable when the queue cannot be reached."""
        async with _redis_calls(), self.docket.redis() as redis:
            await redis.exists(self.docket.stream_key)  # not PING: the embedded backend has none


class DocketLines(logging.Handler):
    """docket's warnings as lines of our own. It says twice a second that Redis is away, and not where: that becomes less and less often."""

    def __init__(self, url: str) -> None:
        super().__init__(logging.WARNING)
        self._url = _without_credentials(url)
        self._last_s, self._due_s, self._since_s, self._gap_s = -math.inf, 0.0, 0.0, 0.0

    def emit(self, record: logging.LogRecord) -> None:
        """One line, unless it is about Redis and the last such line was a moment ago."""
        if not record.getMessage().startswith("Redis "):
            _log.log(record.levelno, "docket", said=record.getMessage(), exc_info=record.exc_info)
            return
        now_s = monotonic()
        if now_s - self._last_s > _QUIET_S:  # it was back, or has never been away
            self._since_s = self._due_s = now_s
            self._gap_s = FIRST_GAP_S
        self._last_s = now_s
        if now_s >= self._due_s:
            _log.warning("waiting_for_redis", url=self._url, for_s=round(now_s - self._since_s))
            self._due_s, self._gap_s = now_s + self._gap_s, min(2 * self._gap_s, LONGEST_GAP_S)


async def _adapt_elsewhere(task_id: str, revision: int) -> None:
    """The name and arguments of the job for processes that only enqueue; a worker registers the body over it."""
    raise RuntimeError(f"job {ADAPT}:{task_id}:{revision} reached a process without jobs. This is a bug.")


@asynccontextmanager
async def _redis_calls() -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(CALL_TIMEOUT_S):
            yield
    except (RedisError, OSError, TimeoutError) as fault:
        reason = str(fault) or type(fault).__name__
        raise Unavailable("the queue in Redis does not answer", reason=reason, code="redis_unavailable") from fault


def _without_credentials(url: str) -> str:
    """Where a URL leads: no user, no password, and no options, which may have one."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def _with_pool(url: str, settings: Settings) -> str:
    """`url` with room for every job's connections.

    redis-py holds a pool to 100 by default; with more jobs in flight docket takes the refusal for an outage and waits seconds.
    """
    parts = urlsplit(url)
    options = dict(parse_qsl(parts.query))
    if not parts.scheme.startswith(("redis", "unix")) or "max_connections" in options:
        return url
    options["max_connections"] = str(2 * settings.worker_concurrency + 32)
    return urlunsplit(parts._replace(query=urlencode(options)))
