"""Initializers side by side: every one on the same episodes, from the same seed. Trains nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from models.artifact import load_initializer, read_card
from models.card import Card
from models.episodes import EpisodeShape, EpisodeSource, are_turned, open_episodes
from models.errors import InvalidOptions
from models.evaluation.scores import EvaluationPlan, measure

Row = dict[str, Any]


@dataclass(frozen=True)
class Setting:
    """Episodes of one kind. steps None: the learner's own number."""

    n_way: int
    k_shot: int
    n_query: int
    steps: int | None = None


CLASSIFICATION = (Setting(5, 1, 5), Setting(5, 5, 5), Setting(20, 1, 1), Setting(20, 5, 1))
REGRESSION = (
    Setting(0, 5, 100, 1),
    Setting(0, 5, 100, 5),
    Setting(0, 5, 100, 10),
    Setting(0, 5, 100),
    Setting(0, 10, 100),
    Setting(0, 20, 100),
)
"""5 shots after 1, 5 and 10 steps are the protocol of Finn et al. 2017; a learner without inner steps has one figure."""


@dataclass(frozen=True)
class Job:
    """One row to measure."""

    folder: Path
    setting: Setting
    data: str
    episodes: int
    seed: int


def choose_folders(folders: Sequence[Path], data: str) -> list[Path]:
    """Those that read what `data` gives: meta-trained on it, or on inputs of its kind and shape."""
    source = open_episodes(data, "test")

    def fits(card: Card) -> bool:
        return card.data == data or (card.input.shape == source.input_shape and card.learner["kind"] == source.kind)

    return [folder for folder in folders if fits(read_card(folder))]


def plan_jobs(folders: Sequence[Path], data: str, *, episodes: int = 1000, seed: int = 0) -> list[Job]:
    """Every setting of every initializer, but for those beyond its limits or that the data cannot give."""
    source = open_episodes(data, "test")
    cards = {folder: read_card(folder) for folder in folders}
    return [
        Job(folder, setting, data, episodes, seed)
        for folder, card in cards.items()
        for setting in _settings_of(card)
        if _can_draw(source, setting)
    ]


def pick_rows(jobs: Sequence[Job], rows: Sequence[Row]) -> list[Row]:
    """Those of `rows` that some job would measure, each once."""
    found = [next((row for row in rows if _is_of(job, row)), None) for job in jobs]
    return [row for row in found if row is not None]


def is_measured(job: Job, rows: Sequence[Row]) -> bool:
    """Whether one of `rows` is what the job would measure: the same weights, setting, episodes and seed."""
    return any(_is_of(job, row) for row in rows)


def _is_of(job: Job, row: Row) -> bool:
    card, setting = read_card(job.folder), job.setting
    wanted = {
        "initializer": card.name,
        "sha256": card.sha256,
        "way": setting.n_way,
        "shot": setting.k_shot,
        "query": setting.n_query,
        "steps": card.default_steps if setting.steps is None else setting.steps,
        "episodes": job.episodes,
        "seed": job.seed,
    }
    return wanted.items() <= row.items()


def measure_jobs(jobs: Sequence[Job], processes: int = 1) -> Iterator[Row]:
    """One row for each job, in their order, as they are measured; each process has one thread."""
    if processes == 1:
        yield from map(_measure_job, jobs)
        return
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn"), initializer=torch.set_num_threads, initargs=(1,)) as pool:
        yield from pool.map(_measure_job, jobs)


def _settings_of(card: Card) -> list[Setting]:
    if card.learner["kind"] == "classification":
        return [s for s in CLASSIFICATION if s.n_way <= card.limits.max_way and s.n_way * s.k_shot <= card.limits.max_support]
    own = card.default_steps
    return [s for s in REGRESSION if s.steps is None or (own > 0 and s.steps <= card.limits.max_steps and s.steps != own)]


def _can_draw(source: EpisodeSource, setting: Setting) -> bool:
    try:
        source.draw(EpisodeShape(setting.n_way, setting.k_shot, setting.n_query, tasks=1), torch.Generator().manual_seed(0))
    except InvalidOptions:
        return False
    return True


def rows_of_card(card: Card, data: str) -> list[Row]:
    """What the card has measured on the test classes of `data`, on the very episodes that `measure_jobs` would draw for its settings."""
    return [_describe(card, row, data) for row in card.accuracy if row["split"] == "test"] if card.data == data else []


def _measure_job(job: Job) -> Row:
    initializer, setting = load_initializer(job.folder), job.setting
    plan = EvaluationPlan(setting.k_shot, setting.n_way, job.episodes, setting.n_query, setting.steps, "test", job.seed)
    source = open_episodes(job.data, "test")
    figures = measure(initializer.learner, initializer.params, source, plan, rotated=are_turned(job.data)).to_json()
    return _describe(initializer.card, figures, job.data)


def _describe(card: Card, figures: Row, data: str) -> Row:
    renamed = {"n_way": "way", "k_shot": "shot", "n_query": "query"}
    return {
        "initializer": card.name,
        "learner": card.learner["method"],
        **{renamed.get(key, key): value for key, value in figures.items()},
        **_confidence_of(card, figures, data),
        "sha256": card.sha256,
    }


def _confidence_of(card: Card, figures: Row, data: str) -> Row:
    """The calibration error and the AUROC of the unknown that the card has for this setting."""
    rows = card.confidence.get("measured", []) if data == card.data else []
    found = [row for row in rows if all(row[key] == figures[key] for key in ("n_way", "k_shot"))]
    return {key: found[0][key] for key in ("ece", "unknown_auroc")} if found else {}
