"""The composition of one process: which store, which cache, which queue, chosen by URL, and the services over them.

The one place that knows the concrete classes. The HTTP process and the queue process are both built from it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import structlog

from app.cache.connection import connect_redis
from app.cache.signals import LocalSignals, RedisSignals, Signals
from app.cache.states import LruStateCache, RedisStateCache, StateCache
from app.db.migrate import upgrade
from app.db.session import Database
from app.engine.interface import Engine
from app.errors import AppError, Unavailable
from app.logs import configure_logs
from app.queue import DocketQueue
from app.services.adaptations import AdaptationService
from app.services.direct_start import DirectStart
from app.services.initializers import InitializerService
from app.services.keys import KeyService
from app.services.predictions import PredictionService
from app.services.readaptation import Readaptation
from app.services.serving import ServingMemory
from app.services.similarity import SimilarityService
from app.services.tasks import TaskService
from app.settings import Settings

REFRESH_INTERVAL_S = 5.0
"""A process that missed the signal of a reload learns of it this much later at most."""

REMEMBERED_ALONE_S = 60.0
"""What serves a task is remembered for so long where SQLite and no Redis say that nobody else is there who could change it unheard."""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Services:
    """Everything one process is made of."""

    settings: Settings
    database: Database
    cache: StateCache
    signals: Signals
    engine: Engine
    queue: DocketQueue
    initializers: InitializerService
    tasks: TaskService
    adaptations: AdaptationService
    direct: DirectStart
    predictions: PredictionService
    keys: KeyService
    similarity: SimilarityService


@asynccontextmanager
async def build_services(settings: Settings) -> AsyncIterator[Services]:
    """Connects, migrates and loads; on leaving, ends everything in the opposite order. Raises Unavailable, InitializerRejected.

    The schema is brought up to date at every start: nothing to do costs milliseconds, and processes that start together wait
    for each other inside `upgrade`.
    """
    configure_logs(settings.log_format)
    async with AsyncExitStack() as stack:
        await asyncio.to_thread(upgrade, settings.resolved_database_url)
        database = Database(settings.resolved_database_url)
        stack.push_async_callback(database.close)
        cache, signals = _choose_stores(settings)
        stack.push_async_callback(cache.close)
        stack.push_async_callback(signals.close)
        queue = await stack.enter_async_context(DocketQueue(settings.redis_url, settings))
        engine = _make_engine(settings)
        stack.push_async_callback(engine.close)
        services = _wire(settings, database, cache, signals, engine, queue)
        await services.initializers.bootstrap()
        await stack.enter_async_context(_kept_fresh(services.initializers, signals))
        yield services


def _choose_stores(settings: Settings) -> tuple[StateCache, Signals]:
    if not settings.redis_url:
        return LruStateCache(settings.state_cache_bytes, settings.state_ttl_s), LocalSignals()
    redis = connect_redis(settings.redis_url)
    return RedisStateCache(redis, settings.state_ttl_s), RedisSignals(redis)


def _make_engine(settings: Settings) -> Engine:
    # Imported here: reading the composition, or a command that needs no engine, does not take torch's two seconds.
    from app.engine.torch_engine import TorchEngine

    return TorchEngine(
        settings.device,
        settings.torch_threads,
        max_lanes=settings.max_lanes,
        max_waiting_lanes=settings.max_waiting_lanes,
        resident_bytes=settings.resident_bytes,
    )


def _wire(settings: Settings, database: Database, cache: StateCache, signals: Signals, engine: Engine, queue: DocketQueue) -> Services:
    initializers = InitializerService(database, engine, signals, queue, settings.initializers_dir or bundled_initializers_dir())
    memory = choose_memory(settings, signals)
    adaptations = AdaptationService(database, cache, signals, engine, queue, initializers, settings)
    direct = DirectStart(adaptations, Readaptation(database, queue), settings.worker_concurrency)
    return Services(
        settings=settings,
        database=database,
        cache=cache,
        signals=signals,
        engine=engine,
        queue=queue,
        initializers=initializers,
        tasks=TaskService(database, cache, signals, engine, queue, initializers, memory, settings, direct),
        adaptations=adaptations,
        direct=direct,
        predictions=PredictionService(database, cache, engine, queue, initializers, memory, settings),
        keys=KeyService(database),
        similarity=SimilarityService(database, initializers),
    )


def choose_memory(settings: Settings, signals: Signals) -> ServingMemory:
    """What is remembered of tasks: for longer by a process that has its stores to itself."""
    is_alone = settings.is_sqlite and not settings.redis_url
    return ServingMemory(signals, ttl_s=REMEMBERED_ALONE_S) if is_alone else ServingMemory(signals)


def bundled_initializers_dir() -> Path:
    """The folder of the initializers that come with the package; found without importing it."""
    spec = find_spec("models")
    if spec is None or not spec.submodule_search_locations:
        raise RuntimeError("The package `models` is not installed. This is a bug.")
    return Path(spec.submodule_search_locations[0]) / "initializers"


@asynccontextmanager
async def _kept_fresh(initializers: InitializerService, signals: Signals) -> AsyncIterator[None]:
    """Follows reloads of other processes: at once by their signal, and every few seconds in case it was lost."""

    async def on_reload(_topic: str) -> None:
        await initializers.refresh()

    signals.listen("initializer:", on_reload)
    await signals.start()
    refreshing = asyncio.create_task(_refresh_for_ever(initializers), name="refresh initializers")
    try:
        yield
    finally:
        refreshing.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await refreshing


async def _refresh_for_ever(initializers: InitializerService) -> None:
    while True:
        await asyncio.sleep(REFRESH_INTERVAL_S)
        try:
            await initializers.refresh()
        except AppError as error:
            _log.warning("initializers_not_refreshed", code=error.code, detail=error.detail)
        except Exception as error:  # the next round may go better; a process that no longer follows reloads would not
            _log.error("initializers_not_refreshed", exc_info=error)


def ping_engine(engine: Engine) -> Callable[[], Awaitable[None]]:
    """A ping that fails while no initializer is loaded."""

    async def ping() -> None:
        if not engine.installed():
            raise Unavailable("no initializer is loaded", code="engine_unavailable")

    return ping
