"""Predictions while the working set grows past what is resident on the device: is there a step, and how high?

    innerloop benchmark cache --json [--only 'redis, 16 callers, zipf']

Callers ask one query each of a task of the working set, through the service's own path: device, else cache, else adapted again. Whose turn
it is depends on the pattern: `uniform`, all alike at random; `zipf`, at random as tenants are, few of them often and most of them seldom;
`sweep`, one after the other and round again, which is the worst that can happen to a cache that drops the least recently used. The
row's figure is the 99th percentile; what it is compared with is the 99th percentile of the same callers and the same round with half of
the cache in use, so a ratio of one half means twice as slow. Beside it stands where the milliseconds went: reading the state from the
cache, bringing it back to the device, and the engine's phases.
"""

from __future__ import annotations

import asyncio
import random
import re
import tempfile
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, replace
from itertools import cycle, groupby, islice, product
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from app import telemetry
from app.domain import as_float32
from app.services.lanes import state_key
from app.services.serving import Serving
from benchmarks.borrowed_redis import NOT_THERE, borrowed_redis
from benchmarks.dialects import Images
from benchmarks.engine_tasks import installed_engine, make_job
from benchmarks.harness import OURS, Disagreement, Findings, Plan, Row
from benchmarks.http_contenders import K_SHOT, N_WAY, draw_images
from benchmarks.latency import percentile, summarise_ms
from benchmarks.owners import Spent, Stopwatch, share_out
from benchmarks.rounds import join_rounds
from benchmarks.service_tasks import ServiceTasks, adapted_tasks
from models.artifact import BUNDLED
from models.devices import count_torch_threads

INITIALIZER = BUNDLED / "omniglot-maml"
INSIDE = 0.5
INSIDE_NAME = "inside the cache"
Pattern = Literal["uniform", "zipf", "sweep"]
PATTERNS: tuple[Pattern, ...] = get_args(Pattern)
_STATES = re.compile(rb'^innerloop_states_total\{event="hit",tier="device"\} (\S+)$', re.MULTILINE)


@dataclass(frozen=True)
class Extent:
    """How much is measured: working sets as multiples of the `resident` states that the device holds."""

    resident: int
    multiples: Sequence[float]
    callers: Sequence[int]
    requests: int
    rounds: int


@dataclass(frozen=True)
class Setting:
    """Where states are kept, how many ask and of whom: each walks over every working set, for all are compared with the smallest."""

    store: str
    callers: int
    pattern: Pattern

    def __str__(self) -> str:
        return f"{self.store}, {self.callers} callers, {self.pattern}"


@dataclass(frozen=True)
class Walk:
    """Latencies of one walk over a working set, the share of requests that found their state on the device, and the milliseconds of each
    owner of all of them together."""

    latencies_ms: list[float]
    hit_share: float
    spent_ms: Spent


def run(plan: Plan) -> Findings:
    """A row for each store, number of callers, pattern and working set."""
    extent = choose_extent(plan)
    with borrowed_redis() as redis_url:
        stores = {"in-process": "", **({"redis": redis_url} if redis_url else {})}
        chosen = plan.choose([Setting(*each) for each in product(stores, extent.callers, PATTERNS)])
        rows = []
        for store, settings in groupby(chosen, key=lambda setting: setting.store):
            rows += asyncio.run(measure_store(plan, extent, list(settings), stores[store]))
    common = {"initializer": INITIALIZER.name, "resident_states": extent.resident, "requests": extent.requests}
    threads = {"torch_threads": plan.service_threads or count_torch_threads()}
    return Findings(rows, {**common, **threads}, {} if redis_url else {"redis": NOT_THERE})


def choose_extent(plan: Plan) -> Extent:
    """Everything, or for a smoke run a moment of each kind."""
    if plan.quick:
        return Extent(8, (INSIDE, 1.1, 2), (1,), requests=40, rounds=1)
    return Extent(64, (INSIDE, 1, 1.1, 2, 10), (1, 16), requests=2000, rounds=5)


async def measure_store(plan: Plan, extent: Extent, settings: Sequence[Setting], redis_url: str) -> list[Row]:
    """The rows of the settings of one store: working sets in turn, round after round."""
    n_tasks = count_tasks(extent, max(extent.multiples))
    sizes = {"resident_bytes": extent.resident * await count_state_bytes(plan), "redis_url": redis_url}
    rows = []
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        tasks = await stack.enter_async_context(adapted_tasks(plan, Path(folder), INITIALIZER, n_tasks, **sizes))
        await check_sizes(tasks)
        watch = watch_services(tasks)
        for setting in settings:
            rounds = [
                {
                    multiple: await walk(tasks, watch, setting, count_tasks(extent, multiple), extent.requests)
                    for multiple in extent.multiples
                }
                for _ in range(extent.rounds)
            ]
            for multiple in extent.multiples:
                rows.append(make_row_of(setting, multiple, extent, rounds))
                plan.report(rows[-1])
    return rows


def watch_services(tasks: ServiceTasks) -> Stopwatch:
    """What a state that is not on the device costs: reading it, and bringing it back."""
    watch = Stopwatch()
    watch.watch(tasks.services.cache, "get", "read")
    watch.watch(tasks.services.engine, "restore", "bring_back")
    return watch


def count_tasks(extent: Extent, multiple: float) -> int:
    """Tasks of a working set that is so many times what is resident."""
    return max(1, round(extent.resident * multiple))


async def count_state_bytes(plan: Plan) -> int:
    """Bytes of one resident state, as the engine counts them; of such a task as those here, for its bits depend on what it is."""
    async with installed_engine(plan, INITIALIZER) as (engine, info):
        await engine.adapt(replace(make_job(info, seed=0), inputs=as_float32(draw_images(N_WAY * K_SHOT, 0)), targets=np.arange(N_WAY)))
        return engine.resident_bytes


async def check_sizes(tasks: ServiceTasks) -> None:
    """Raises Disagreement unless all states are of one size: the multiples would be of nothing."""
    states = [await tasks.services.cache.get(state_key(each.adaptation)) for each in tasks.serving]
    if len(sizes := {len(state) for state in states if state is not None}) != 1:
        raise Disagreement(f"states of {sorted(sizes)} bytes: expected one size")


async def walk(tasks: ServiceTasks, watch: Stopwatch, setting: Setting, working_set: int, requests: int) -> Walk:
    """Requests over the first tasks, after each of them was asked once, the one that comes first last."""
    latencies_ms, queries = list[float](), draw_images(1, 0)  # drawn here: 40 us, of the event loop that all callers share
    for serving in reversed(tasks.serving[:working_set]):
        await tasks.services.predictions.predict(serving, queries)
    planned = iter([tasks.serving[task] for task in plan_requests(setting.pattern, working_set, requests)])

    async def call() -> None:
        for serving in planned:  # shared by all callers: each takes the next one
            latencies_ms.append(await time_prediction(tasks, serving, queries, watch))

    hits, _ = count_hits(), watch.take()
    await asyncio.gather(*(call() for _ in range(setting.callers)))
    return Walk(latencies_ms, (count_hits() - hits) / requests, watch.take())


def plan_requests(pattern: Pattern, working_set: int, requests: int) -> list[int]:
    """Whose turn it is, by number. The first task is asked most under `zipf`, last in a `sweep`."""
    chance, tasks = random.Random(working_set), range(working_set)
    if pattern == "sweep":
        return list(islice(cycle(reversed(tasks)), requests))
    weights = [1 / (1 + task) if pattern == "zipf" else 1.0 for task in tasks]  # Zipf's law: the n-th is asked an n-th as often
    return chance.choices(tasks, weights, k=requests)


async def time_prediction(tasks: ServiceTasks, serving: Serving, queries: Images, watch: Stopwatch) -> float:
    """Milliseconds of one prediction, of which the engine's are added to their owners'."""
    begun_s = time.perf_counter()
    answered = await tasks.services.predictions.predict(serving, queries)
    span_ms = (time.perf_counter() - begun_s) * 1e3
    watch.add({name: ms for name, ms in answered.timings_ms.items() if name != "total"})
    return span_ms


def count_hits() -> float:
    """States that were found on the device, so far in this process."""
    found = _STATES.search(telemetry.render_metrics())
    return float(found[1]) if found else 0.0


def make_row_of(setting: Setting, multiple: float, extent: Extent, rounds: Sequence[dict[float, Walk]]) -> Row:
    """The row of one working set."""
    settings = {**asdict(setting), "working_set": multiple, "tasks": count_tasks(extent, multiple)}
    figures = [{OURS: percentile(found[multiple].latencies_ms, 0.99), **peer_of(found, multiple)} for found in rounds]
    latencies_ms = [latency_ms for found in rounds for latency_ms in found[multiple].latencies_ms]
    hit_share = sum(found[multiple].hit_share for found in rounds) / len(rounds)
    owners = share_out(latencies_ms, [found[multiple].spent_ms for found in rounds])
    details: dict[str, Any] = {"device_hit_share": round(hit_share, 4), **summarise_ms(latencies_ms), "phases_ms": owners}
    return join_rounds(settings, "ms", figures, **details)


def peer_of(found: dict[float, Walk], multiple: float) -> dict[str, float]:
    """What a working set is compared with; the one inside the cache with nothing."""
    return {} if multiple == INSIDE else {INSIDE_NAME: percentile(found[INSIDE].latencies_ms, 0.99)}
