"""Bytes of one adapted task, on the device and in Redis, for every bundled learner.

    innerloop benchmark memory --json

The peer is what a server keeps that has a copy of the model for each tenant: all weights in float32. Beside the bytes in Redis stands
how far the answers of a state that went there and back are from those of the weights as the inner loop left them, before any rounding. How
many bits a kernel takes depends on how far the inner loop moved it, so the task is one of Omniglot's wherever an initializer takes such.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open

from app.cache.connection import connect_redis
from app.cache.keys import states_key
from app.cache.states import RedisStateCache
from app.domain import AdaptJob, Array, InitializerInfo, StateKey
from app.engine.torch_engine import TorchEngine
from benchmarks.borrowed_redis import NOT_THERE, borrowed_redis
from benchmarks.engine_tasks import K_SHOT, N_WAY, installed_engine, make_job, make_queries
from benchmarks.few_shot import IMAGE, describe_data, draw_episodes
from benchmarks.harness import Findings, Plan, Row, make_row
from models.artifact import list_bundled, load_initializer_bytes
from models.episodes import EpisodeShape
from models.installed import install

GIB = 2**30
FULL = "all weights in float32"
NAMESPACE = "innerloop-benchmark"
N_QUERY = 20
SMALLEST = 1e-30
"""Probabilities below it are not compared by their logarithm: float32 has no more digits there."""


@dataclass(frozen=True)
class StateBytes:
    """What one adapted state takes up, and what going to the cache and back did to its answers."""

    on_device: int
    encoded: int
    in_redis: int | None
    answer_error: float


def run(plan: Plan) -> Findings:
    """Two rows for each learner: on the device and in the cache."""
    bundled = {folder.name: folder for folder in (list_bundled()[:4] if plan.quick else list_bundled())}
    folders = [bundled[name] for name in plan.choose(list(bundled))]
    with borrowed_redis() as redis_url:
        rows = []
        for folder in folders:
            rows += make_rows(folder, asyncio.run(measure_state(plan, folder, redis_url)))
            for row in rows[-2:]:
                plan.report(row)
    missing = {} if redis_url else {"redis": NOT_THERE}
    return Findings(rows, {"n_way": N_WAY, "k_shot": K_SHOT, "n_query": N_QUERY, "data": describe_data()}, missing)


def make_rows(folder: Path, state: StateBytes) -> list[Row]:
    """The rows of one learner."""
    card = json.loads((folder / "card.json").read_text())
    peers = {FULL: float(count_full_bytes(folder))}
    settings = {"initializer": folder.name, "method": card["learner"]["method"]}
    stored = state.encoded if state.in_redis is None else state.in_redis
    places = {"device": (state.on_device, {}), "redis": (stored, {"encoded_bytes": state.encoded, "answer_error": state.answer_error})}
    return [
        make_row({**settings, "where": where}, "bytes", n_bytes, peers, tasks_per_gib=GIB // n_bytes, **details)
        for where, (n_bytes, details) in places.items()
    ]


def count_full_bytes(folder: Path) -> int:
    """Bytes of the initializer's weights."""
    with safe_open(folder / "initializer.safetensors", "pt") as weights:
        return sum(weights.get_tensor(name).nbytes for name in weights.keys())  # noqa: SIM118 - not a dict, it only has keys()


async def measure_state(plan: Plan, folder: Path, redis_url: str | None) -> StateBytes:
    """Adapts one task and looks at its state wherever it is kept."""
    async with installed_engine(plan, folder) as (engine, info):
        job, queries = make_task(info)
        before = count_device_bytes(engine)
        adapted = await engine.adapt(job)
        on_device = count_device_bytes(engine) - before
        in_redis = await store_in_redis(redis_url, job.key, adapted.state) if redis_url else None
    return StateBytes(on_device, len(adapted.state), in_redis, compare_answers(plan, folder, info, job, queries))


def make_task(info: InitializerInfo) -> tuple[AdaptJob, Array]:
    """Five classes with five examples each, or 25 points of a curve, and queries: of test classes where there are such, else of noise."""
    job = make_job(info, seed=1)
    if info.kind == "regression" or tuple(info.input.shape) != IMAGE:
        return job, make_queries(info, N_QUERY)
    batch = draw_episodes(EpisodeShape(N_WAY, K_SHOT, N_QUERY // N_WAY, tasks=1))
    return replace(job, inputs=batch.support.inputs[0].numpy(), targets=batch.support.targets[0].numpy()), batch.query_inputs[0].numpy()


def count_device_bytes(engine: TorchEngine) -> int:
    """What the allocator of a GPU has given out, or on a CPU what the engine counts."""
    return engine.resident_bytes if engine.device == "cpu" else torch.cuda.memory_allocated(engine.device)


async def store_in_redis(url: str, key: StateKey, state: bytes) -> int:
    """Bytes that Redis itself says it needs for the state, with its key and bookkeeping."""
    client = connect_redis(url)
    cache = RedisStateCache(client, ttl_s=60, namespace=NAMESPACE)
    try:
        await client.delete(states_key(NAMESPACE, key.task_id))  # every learner's task has the same name
        await cache.put(key, state)
        used = await client.memory_usage(states_key(NAMESPACE, key.task_id), samples=0)
    finally:
        await cache.close()
    return int(used or 0)


def compare_answers(plan: Plan, folder: Path, info: InitializerInfo, job: AdaptJob, queries: Array) -> float:
    """The largest difference in a logit (up to its sharpness), or in a value for regression, that rounding a state to its bytes makes.

    Below the engine, which answers by rounded states only."""
    card = json.loads((folder / "card.json").read_text())
    weights, device = (folder / "initializer.safetensors").read_bytes(), torch.device(plan.device)
    version = install(load_initializer_bytes(card, weights), device, card.get("confidence"))
    lane = version.adapt([job], job.steps)[0].state
    states = [version.hold(lane), version.restore(version.encode(lane))]
    read = read_logits if info.kind == "classification" else np.asarray
    exact, rounded = (read(version.predict([state], [queries], N_QUERY)[0].values) for state in states)
    return float(np.abs(exact - rounded).max())


def read_logits(probabilities: Array) -> Array:
    """Logits, up to a constant for each query, which is taken out: they have a mean of zero."""
    logs = np.log(np.maximum(probabilities, SMALLEST))
    return np.asarray(logs - logs.mean(axis=1, keepdims=True))
