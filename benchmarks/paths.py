"""Which way of computing is the fastest for each learner and number of lanes: the C for CPUs, torch, or torch lane by lane.

    innerloop benchmark paths --json [--only 'adapt omniglot-maml .* 16 lanes']

Every bundled learner whose network the C can compute, 5-way 1-shot and one query a lane, through the calls that a server makes
(`models.installed`). `ours` is what the product does, that is C; the peers are the same calls where no library is found, all lanes in
one batch and one lane after the other. Answers must agree to 1e-4 before anything is timed. The table of docs/performance.md is what
`Conv4.find_native` chooses by.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from app.domain import AdaptJob, Array, InitializerRef
from app.engine.interface import inspect
from benchmarks.catalogue import Refused
from benchmarks.engine_tasks import K_SHOT, make_job, make_queries
from benchmarks.harness import OURS, Disagreement, Findings, Plan, Row, measure_all
from benchmarks.timing import Contender, time_paired
from models.artifact import BUNDLED, load_initializer
from models.backbones import Conv4
from models.installed import Installed, install
from models.resident import Resident

LANES = (1, 4, 16, 64)
QUICK_INITIALIZER = "omniglot-maml"
TOLERANCE = 1e-4
TORCH, LOOP = "torch", "torch, lane by lane"
MOST_LOOPED = 4
"""Lanes that are also tried one by one; of more of them a loop takes so many times as long."""
REPETITIONS, BUDGET_S = 30, 0.25
MAX_SAMPLES = 2**20
Work = Literal["adapt", "predict"]


@dataclass(frozen=True)
class Setting:
    """One row's."""

    work: Work
    initializer: str
    lanes: int

    def __str__(self) -> str:
        return f"{self.work} {self.initializer} {self.lanes} lanes"


@dataclass(frozen=True)
class Side:
    """An initializer installed one way, a task for each lane, and their adapted states as a cache would bring them back."""

    installed: Installed
    steps: int
    jobs: Sequence[AdaptJob]
    queries: Sequence[Array]
    states: Sequence[Resident]

    def prepare(self, work: Work) -> Contender:
        """The work of all lanes in one call."""
        if work == "adapt":
            return partial(self.installed.adapt, self.jobs, self.steps)
        return partial(self.installed.predict, self.states, self.queries, MAX_SAMPLES)

    def take(self, lanes: slice) -> Side:
        """Some lanes of it."""
        return replace(self, jobs=self.jobs[lanes], queries=self.queries[lanes], states=self.states[lanes])

    def answer(self) -> Array:
        """Every lane's answer by the state that it adapts to now."""
        states = [self.installed.hold(lane.state) for lane in self.installed.adapt(self.jobs, self.steps)]
        return np.stack([lane.values for lane in self.installed.predict(states, self.queries, MAX_SAMPLES)])


@dataclass(frozen=True)
class Sides:
    """Both ways, and how far apart their answers are."""

    by_c: Side
    by_torch: Side
    difference: float


def run(plan: Plan) -> Findings:
    """A row for each kind of work, initializer and number of lanes."""
    if plan.device != "cpu":
        raise Refused("the C is for CPUs: on another device there is one path only")
    rows, missing = measure_all(plan, list_settings(plan.quick), measure)
    return Findings(rows, {"way": 5, "shot": 1, "queries_per_lane": 1, "tolerance": TOLERANCE}, missing)


def list_settings(quick: bool) -> list[Setting]:
    """All of them, or two of one initializer. Raises Refused where the C was not built."""
    names = list_native_initializers()
    if not names:
        raise Refused("no initializer takes the C here: python -m models.native.build, with a C compiler at hand")
    works: tuple[Work, ...] = ("adapt", "predict")
    if quick:
        return [Setting(work, QUICK_INITIALIZER, 2) for work in works]
    return [Setting(work, name, lanes) for name in names for work in works for lanes in LANES]


def list_native_initializers() -> list[str]:
    """The bundled ones for Omniglot whose network the C computes; those for other pictures have learners that are among them."""
    folders = sorted(BUNDLED.glob("omniglot-*"))
    backbones = {folder.name: getattr(load_initializer(folder).learner, "backbone", None) for folder in folders}
    plain = {name: backbone for name, backbone in backbones.items() if isinstance(backbone, Conv4)}
    return [name for name, backbone in plain.items() if backbone.find_native(torch.zeros(1, 1, *backbone.input_shape))]


def measure(setting: Setting, plan: Plan) -> tuple[Row, dict[str, str]]:
    """The row; nobody is ever missing. Raises Disagreement."""
    sides = open_sides(setting.initializer, max(LANES))
    by_c, by_torch = sides.by_c.take(slice(setting.lanes)), sides.by_torch.take(slice(setting.lanes))
    contenders = {OURS: by_c.prepare(setting.work), TORCH: _hide_native(by_torch.prepare(setting.work))}
    if 1 < setting.lanes <= MOST_LOOPED:
        lanes = [by_torch.take(slice(lane, lane + 1)).prepare(setting.work) for lane in range(setting.lanes)]
        contenders[LOOP] = _hide_native(partial(run_all, lanes))
    timings = time_paired(contenders, repetitions=plan.repetitions(REPETITIONS), budget_s=BUDGET_S)
    settings = {"initializer": setting.initializer, "work": setting.work, "lanes": setting.lanes}
    return timings.to_row(settings, difference=sides.difference), {}


@lru_cache(maxsize=1)
def open_sides(initializer: str, lanes: int) -> Sides:
    """An initializer both ways, once for all its settings. Raises Disagreement."""
    by_c = open_side(BUNDLED / initializer, lanes)
    with without_native():
        by_torch = open_side(BUNDLED / initializer, lanes)
        theirs = by_torch.answer()
    return Sides(by_c, by_torch, check_answers(initializer, by_c.answer(), theirs))


def open_side(folder: Path, lanes: int) -> Side:
    """The initializer as it installs itself now, with so many tasks adapted."""
    card = json.loads((folder / "card.json").read_text())
    info = inspect(card, InitializerRef(folder.name, 1))
    installed = install(load_initializer(folder), torch.device("cpu"), card.get("confidence"))
    jobs = [_take_first_shot(make_job(info, seed)) for seed in range(lanes)]
    queries = [make_queries(info, 1, seed) for seed in range(lanes)]
    states = [installed.restore(installed.encode(lane.state)) for lane in installed.adapt(jobs, info.default_steps)]
    return Side(installed, info.default_steps, jobs, queries, states)


def _take_first_shot(job: AdaptJob) -> AdaptJob:
    return replace(job, inputs=job.inputs[::K_SHOT], targets=job.targets[::K_SHOT])


def check_answers(initializer: str, ours: Array, theirs: Array) -> float:
    """The largest difference in a probability. Raises Disagreement."""
    difference = float(np.abs(ours - theirs).max())
    if not difference <= TOLERANCE:
        raise Disagreement(f"{initializer}: C and torch differ by {difference:.1e} in a probability, more than {TOLERANCE:.0e}")
    return difference


@contextmanager
def without_native() -> Iterator[None]:
    """Networks find no library, as where none was built."""
    find_native = Conv4.find_native
    setattr(Conv4, "find_native", lambda self, inputs: None)  # noqa: B010 (a type checker forbids to assign a method)
    try:
        yield
    finally:
        setattr(Conv4, "find_native", find_native)  # noqa: B010


def _hide_native(contender: Contender) -> Contender:
    def run_hidden() -> None:
        with without_native():
            contender()

    return run_hidden


def run_all(contenders: Sequence[Contender]) -> None:
    """One after the other."""
    for contender in contenders:
        contender()
