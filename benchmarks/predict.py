"""Predictions through the engine while 1 to 2,000 tasks are resident, each with weights of its own.

    innerloop benchmark predict --json

Callers ask one query each of a task that is drawn at random, and ask again when they are answered. The peer is the limit of a server
of one model: a bare torch forward of one plain net over as many queries at once as there are callers. S-LoRA lost 5.5 % of its
throughput from 5 to 2,000 resident adapters (LMSYS, 2023-11-15); rows have the share lost here in `lost_from_5_tasks`, the median of the
rounds, and its quartiles. Windows are short and many: a machine that others share changes its pace from one second to the next, and the
median of 155 rounds is known to half of what that of 31 is (in the same time, where quartiles lie a tenth apart).
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch

from app.domain import Phases
from benchmarks.engine_tasks import N_WAY, EngineTasks, make_queries, resident_tasks
from benchmarks.harness import OURS, Findings, Plan, Row
from benchmarks.latency import percentile, summarise_ms
from benchmarks.limits import find_prediction_limits
from benchmarks.owners import Spent, share_out
from benchmarks.plain_learner import PlainLearner, load_plain_learner
from benchmarks.rates import Rates, measure_rates
from benchmarks.rounds import join_rounds
from benchmarks.service_tasks import settled_interpreter
from models.artifact import BUNDLED

INITIALIZERS = ("omniglot-maml", "omniglot-protonet")
BARE = "bare forward of one model"
REFERENCE_TASKS = 5


@dataclass(frozen=True)
class Extent:
    """How much is measured."""

    initializers: Sequence[str]
    tasks: Sequence[int]
    callers: Sequence[int]
    window_s: float
    rounds: int


@dataclass(frozen=True)
class Answered:
    """What a window gave. spent_ms: of each owner, in all of its answers together."""

    queries_per_s: float
    latencies_ms: list[float]
    spent_ms: Spent


Rounds = list[Mapping[int, Answered]]
"""For every round, what each number of resident tasks gave."""


def run(plan: Plan) -> Findings:
    """A row for each initializer, number of callers and number of resident tasks."""
    extent = choose_extent(plan)
    rows = [row for name in plan.choose(extent.initializers) for row in asyncio.run(measure_initializer(plan, extent, BUNDLED / name))]
    return Findings(rows, {"queries_per_call": 1, "window_s": extent.window_s, "seconds_are_of": "the engine, without HTTP"})


def choose_extent(plan: Plan) -> Extent:
    """Everything, or for a smoke run a moment of each kind."""
    if plan.quick:
        return Extent(INITIALIZERS[:1], (1, 5, 20), (1, 8), window_s=0.1, rounds=1)
    return Extent(INITIALIZERS, (1, 5, 10, 100, 1000, 2000), (1, 64), window_s=0.1, rounds=155)


async def measure_initializer(plan: Plan, extent: Extent, folder: Path) -> list[Row]:
    """The rows of one initializer; an engine for each number of tasks, all of them open, asked in turn."""
    rows, rates = [], measure_rates(plan.device, quick=plan.quick)
    async with AsyncExitStack() as stack:
        engines = {n_tasks: await stack.enter_async_context(resident_tasks(plan, folder, n_tasks)) for n_tasks in extent.tasks}
        stack.enter_context(settled_interpreter())
        for callers in extent.callers:
            bare = prepare_bare_forward(plan.device, callers)
            rounds: Rounds = []
            bare_per_s = []
            for turn in range(-1, extent.rounds):  # the round before the first is a warm-up and is not counted
                found = {n_tasks: await ask(engines[n_tasks], callers, extent.window_s) for n_tasks in rotate(extent.tasks, turn)}
                measured_per_s = await asyncio.to_thread(bare.measure_per_s, extent.window_s)
                if turn >= 0:
                    rounds.append(found)
                    bare_per_s.append(measured_per_s)
            for n_tasks in extent.tasks:
                rows.append(make_row_of(folder, callers, n_tasks, rounds, bare_per_s, rates, engines[n_tasks].state_bytes))
                plan.report(rows[-1])
    return rows


def rotate(tasks: Sequence[int], turn: int) -> list[int]:
    """Another order in every round, so that nobody always runs in the wake of the same neighbour."""
    start = turn % len(tasks)
    return [*tasks[start:], *tasks[:start]]


async def ask(tasks: EngineTasks, callers: int, window_s: float) -> Answered:
    """What so many callers get in a window; answers that come after it do not count."""
    queries = make_queries(tasks.info, 1)
    chance, latencies_ms, phases = random.Random(callers), list[float](), list[Phases]()
    end_s = time.perf_counter() + window_s

    async def call() -> None:
        while (begun_s := time.perf_counter()) < end_s:
            answers = await tasks.engine.predict(chance.choice(tasks.keys), queries)
            if (ended_s := time.perf_counter()) <= end_s:
                latencies_ms.append((ended_s - begun_s) * 1e3)
                phases.append(answers.phases)

    await asyncio.gather(*(call() for _ in range(callers)))
    return Answered(max(len(latencies_ms), 0.5) / window_s, latencies_ms, add_up(phases))


def add_up(phases: Sequence[Phases]) -> Spent:
    """Milliseconds of each of the engine's phases in all answers."""
    return {
        "queue": sum(each.queue_ms for each in phases),
        "batch": sum(each.batch_ms for each in phases),
        "device": sum(each.device_ms for each in phases),
    }


@dataclass(frozen=True)
class BareForward:
    """One plain network and a batch of images on the device."""

    learner: PlainLearner
    images: torch.Tensor

    def measure_per_s(self, window_s: float) -> float:
        """Queries per second of forwards one after another, answers on the host."""
        answered, begun_s = 0, time.perf_counter()
        while (now_s := time.perf_counter()) < begun_s + window_s:
            self.learner.predict(self.learner.net, self.images).cpu()
            answered += len(self.images)
        return answered / (now_s - begun_s)


def prepare_bare_forward(device: str, n_queries: int) -> BareForward:
    """The net of the bundled MAML initializer; the body is the same in the other image initializers, and the head costs next to nothing."""
    learner = load_plain_learner(BUNDLED / "omniglot-maml", N_WAY, device)
    return BareForward(learner, torch.rand(n_queries, 1, 28, 28, device=device))


def make_row_of(
    folder: Path, callers: int, n_tasks: int, rounds: Rounds, bare_per_s: Sequence[float], rates: Rates, state_bytes: int
) -> Row:
    """The row of one number of resident tasks."""
    figures = [{OURS: found[n_tasks].queries_per_s, BARE: bare} for found, bare in zip(rounds, bare_per_s, strict=True)]
    latencies_ms = [latency_ms for found in rounds for latency_ms in found[n_tasks].latencies_ms]
    settings = {"initializer": folder.name, "resident_tasks": n_tasks, "callers": callers}
    owners = share_out(latencies_ms, [found[n_tasks].spent_ms for found in rounds])
    details = {
        **find_loss(rounds, n_tasks),
        "state_bytes": state_bytes,
        **summarise_ms(latencies_ms),
        "phases_ms": owners,
        **rates.describe(),
    }
    limits = find_prediction_limits(folder, N_WAY, rates)
    return join_rounds(settings, "queries/s", figures, limit=limits.matmul, peak=limits.peak, **details)


def find_loss(rounds: Rounds, n_tasks: int) -> dict[str, Any]:
    """The share of throughput lost against the reference of the same round, median and quartiles; below zero where it is faster."""
    if n_tasks <= REFERENCE_TASKS:
        return {"lost_from_5_tasks": None, "lost_quartiles": None}
    lost = [1 - found[n_tasks].queries_per_s / found[REFERENCE_TASKS].queries_per_s for found in rounds]
    spread = [round(percentile(lost, share), 4) for share in (0.25, 0.75)]
    return {"lost_from_5_tasks": round(median(lost), 4), "lost_quartiles": spread}
