"""An engine with any number of adapted tasks resident, made from a few real adaptations: for the benchmarks below HTTP."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from app.domain import AdaptJob, Array, InitializerInfo, InitializerRef, StateKey
from app.engine.interface import inspect
from app.engine.torch_engine import TorchEngine
from benchmarks.harness import Plan

N_WAY, K_SHOT = 5, 5
ADAPTED = 16
"""Tasks that are really adapted; the others hold copies of their states, in memory of their own."""


@dataclass(frozen=True)
class EngineTasks:
    """An engine, the initializer on it, and the keys of its resident states."""

    engine: TorchEngine
    info: InitializerInfo
    keys: list[StateKey]

    @property
    def state_bytes(self) -> int:
        """Of a task on the device, the mean."""
        return round(self.engine.resident_bytes / len(self.keys))


@asynccontextmanager
async def resident_tasks(plan: Plan, folder: Path, n_tasks: int) -> AsyncIterator[EngineTasks]:
    """An engine of its own with `n_tasks` resident; closed when the block ends."""
    async with installed_engine(plan, folder) as (engine, info):
        states = []
        for seed in range(min(ADAPTED, n_tasks)):
            states.append((await engine.adapt(make_job(info, seed))).state)
        keys = [make_key(info, task) for task in range(n_tasks)]
        for task in range(len(states), n_tasks):
            await engine.restore(keys[task], states[task % len(states)])
        yield EngineTasks(engine, info, keys)


@asynccontextmanager
async def installed_engine(plan: Plan, folder: Path) -> AsyncIterator[tuple[TorchEngine, InitializerInfo]]:
    """An engine with one initializer, and room for everything."""
    engine = TorchEngine(plan.device, plan.threads, resident_bytes=2**40)
    try:
        card, ref = json.loads((folder / "card.json").read_text()), InitializerRef(folder.name, 1)
        await engine.install(ref, card, (folder / "initializer.safetensors").read_bytes())
        yield engine, inspect(card, ref)
    finally:
        await engine.close()


def make_key(info: InitializerInfo, task: int) -> StateKey:
    """The key of a task's first revision."""
    return StateKey(f"task{task}", 1, info.ref)


def make_job(info: InitializerInfo, seed: int) -> AdaptJob:
    """A support set of five classes with five examples each, or 25 points of a curve, as `task{seed}`."""
    random, key = np.random.default_rng(seed), make_key(info, seed)
    inputs = random.uniform(0, 1, (N_WAY * K_SHOT, *info.input.shape)).astype(np.float32)
    if info.kind == "regression":
        return AdaptJob(key, inputs, np.sin(5 * inputs[:, :1]), 0, info.default_steps)
    return AdaptJob(key, inputs, np.repeat(np.arange(N_WAY), K_SHOT), N_WAY, info.default_steps)


def make_queries(info: InitializerInfo, count: int, seed: int = 0) -> Array:
    """Random inputs of the right shape, float32."""
    return np.random.default_rng(seed).uniform(0, 1, (count, *info.input.shape)).astype(np.float32)
