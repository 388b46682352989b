"""Whether `initializer: "auto"` is worth asking for: its accuracy beside that of every fixed choice, on the same tasks.

    python -m benchmarks.auto_choice --tasks 40 --json
    python -m benchmarks.auto_choice --split validation --tasks 40 --certify 40 --json      # what chose PRIOR_EXAMPLES

Every candidate (an initializer with a number of steps) is scored and judged on every task once; the choice is then replayed from the
records, for any prior weight and any time budget (of CPU time). Figures are percent of queries, differences are paired by task, the
interval is 1.96 standard errors. `auto_minus_best`: auto minus the candidate that is best in hindsight, by its mean on these tasks.
"""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer

from app.domain import InitializerInfo, InitializerRef
from app.engine.interface import HeldOut, inspect
from app.services.selection import PRIOR_EXAMPLES, Candidate, Trial, choose, expect_loss, level_priors, list_steps, order, pick_next, score
from models.artifact import list_bundled, load_initializer
from models.episodes import EpisodeBatch, EpisodeShape, EpisodeSource, Split, open_episodes
from models.errors import DataUnavailable, InvalidOptions
from models.evaluation.calibration import SETTINGS as CERTIFIED
from models.evaluation.calibration import VALIDATION_SEED, answer_open_episodes, fit_confidence, measure_loss
from models.holdout import score_support_set
from models.installed import Installed, install

WEIGHTS = (0.0, 1.0, 3.0, 10.0, 30.0, 100.0, math.inf)
SEEDS = {"validation": 7_000_001, "test": 1}


@dataclass(frozen=True)
class Setting:
    """Tasks of one kind; n_query of each class."""

    data: str
    n_way: int
    k_shot: int
    n_query: int

    def __str__(self) -> str:
        return f"{self.data} {self.n_way}w{self.k_shot}s"


SETTINGS = (
    *(Setting("omniglot", n_way, k_shot, 20 // n_way + 1) for n_way, k_shot in ((5, 1), (5, 2), (5, 5), (20, 1), (20, 2), (20, 5))),
    *(Setting("icons", n_way, k_shot, 20 // n_way + 1) for n_way, k_shot in ((5, 1), (5, 2), (5, 5), (20, 5))),
    *(Setting("digits", n_way, k_shot, 3) for n_way, k_shot in ((5, 1), (5, 5), (10, 2), (10, 10))),
)


@dataclass(frozen=True)
class Contender:
    """An initializer on the CPU, as the service describes it."""

    info: InitializerInfo
    installed: Installed


@dataclass(frozen=True)
class Record:
    """One candidate on one task. accuracy: percent of the queries; prior None where the card has no figures and none were made."""

    setting: str
    task: int
    name: str
    data: str
    steps: int
    is_own: bool
    prior: float
    held_out_loss: float
    held_out_accuracy: float
    n: int
    ms: float
    accuracy: float


def load_contenders(folders: Sequence[Path], certify: int) -> list[Contender]:
    """Every classification initializer; one without figures on its card is certified on so many episodes a setting, here alone."""
    loaded = [load_initializer(folder) for folder in folders]
    contenders = []
    for initializer in loaded:
        if initializer.learner.kind == "regression":
            continue
        card = initializer.card
        if certify and not card.confidence.get("validation"):
            card = replace(card, confidence=_certify(initializer.learner, initializer.params, card.data, card.limits.max_way, certify))
            typer.echo(f"{card.name}: {card.confidence['validation']}", err=True)
        info = inspect(card.to_json(), InitializerRef(card.name, 1))
        contenders.append(Contender(info, install(initializer, torch.device("cpu"), card.confidence)))
    return contenders


def _certify(learner: Any, params: Any, data: str, max_way: int, episodes: int) -> dict[str, Any]:
    """`confidence` with its validation part, from fewer episodes than `certify_confidence` takes."""
    settings = [replace(setting, episodes=episodes) for setting in CERTIFIED if setting.n_way <= max_way]
    source = open_episodes(data, "validation")
    judged = [answer_open_episodes(learner, params, source, setting, VALIDATION_SEED) for setting in settings]
    confidence = fit_confidence(judged)
    rows = [measure_loss(part, setting, confidence) for part, setting in zip(judged, settings, strict=True)]
    return {**confidence.to_json(), "validation": rows}


def open_source(setting: Setting, split: Split) -> EpisodeSource | None:
    """None where the data is not here, or has no such split or too few classes."""
    try:
        source = open_episodes(setting.data, split)
        source.draw(EpisodeShape(setting.n_way, setting.k_shot, setting.n_query, 1), torch.Generator().manual_seed(0))
    except (DataUnavailable, InvalidOptions) as absent:
        typer.echo(f"{setting} left out: {absent}", err=True)
        return None
    return source


def measure_setting(setting: Setting, split: Split, tasks: int, contenders: Sequence[Contender], extra_steps: bool) -> list[Record]:
    """Every candidate on every task."""
    source = open_source(setting, split)
    if source is None:
        return []
    fitting = [contender for contender in contenders if _fits(contender.info, setting, source)]
    generator = torch.Generator().manual_seed(SEEDS[split])
    shape, records = EpisodeShape(setting.n_way, setting.k_shot, setting.n_query, 1), []
    for task in range(tasks):
        episode = source.draw(shape, generator)
        for contender in fitting:
            steps = list_steps(contender.info) if extra_steps else list_steps(contender.info)[:1]
            records += [_measure(setting, task, contender, each, episode) for each in steps]
    return records


def _fits(info: InitializerInfo, setting: Setting, source: EpisodeSource) -> bool:
    limits, n_support = info.limits, setting.n_way * setting.k_shot
    return info.input.shape == source.input_shape and limits.min_way <= setting.n_way <= limits.max_way and n_support <= limits.max_support


def _measure(setting: Setting, task: int, contender: Contender, steps: int, episode: EpisodeBatch) -> Record:
    info, version = contender.info, contender.installed
    started = time.process_time()
    held_out = score_support_set(version.learner, version.params, episode.support, steps, version.confidence, max_samples=64)
    ms = (time.process_time() - started) * 1000
    with torch.no_grad():
        state = version.learner.adapt(version.params, episode.support, steps).state
        answers = version.learner.predict(version.params, state, episode.query_inputs).argmax(-1)
    accuracy = 100 * float((answers == episode.query_targets).double().mean())
    prior = expect_loss(info, setting.n_way, setting.k_shot) or 0.0
    figures = (held_out.loss, held_out.accuracy, held_out.n, ms, accuracy)
    return Record(str(setting), task, info.ref.name, str(info.card["data"]), steps, steps == info.default_steps, prior, *figures)


def replay(records: Sequence[Record], weight: float, budget_ms: float) -> Record:
    """What the service would have chosen for one task."""
    data = {InitializerRef(r.name, 1): r.data for r in records}
    priors = level_priors({InitializerRef(r.name, 1): r.prior for r in records}, data)
    found = {Candidate(ref := InitializerRef(r.name, 1), r.steps, priors[ref]): r for r in records}
    own_first = sorted(found, key=lambda candidate: not found[candidate].is_own)
    candidates, spent_ms = order(own_first), 0.0
    trials: list[Trial] = []
    while (candidate := pick_next(candidates, trials)) is not None and spent_ms < budget_ms:
        record = found[candidate]
        held_out = HeldOut(record.held_out_loss, record.held_out_accuracy, record.n)
        value = candidate.prior if weight == math.inf else score(candidate.prior, held_out, weight)
        trials.append(Trial(candidate, held_out, value if value is not None else 0.0, record.ms))
        spent_ms += record.ms
    return found[choose(trials).candidate if trials else candidates[0]]


def summarise(records: Sequence[Record], weight: float, budget_ms: float) -> dict[str, Any]:
    """Auto and every fixed choice on the tasks of these records, and auto against the best of them."""
    by_task: dict[tuple[str, int], list[Record]] = {}
    for record in records:
        by_task.setdefault((record.setting, record.task), []).append(record)
    groups = list(by_task.values())
    chosen = [replay(group, weight, budget_ms) for group in groups]
    auto = np.array([record.accuracy for record in chosen])
    common = set.intersection(*({(r.name, r.steps) for r in group} for group in groups))
    fixed = {key: np.array([next(r.accuracy for r in g if (r.name, r.steps) == key) for g in groups]) for key in sorted(common)}
    best = max(fixed, key=lambda key: float(fixed[key].mean()))
    difference, ci95 = _mean(auto - fixed[best])
    return {
        "tasks": len(groups),
        "auto": _row(auto),
        "fixed": {f"{name}, {steps} steps": {**_row(values), "auto_minus": _row(auto - values)} for (name, steps), values in fixed.items()},
        "best_fixed": f"{best[0]}, {best[1]} steps",
        "auto_minus_best": {"mean": difference, "ci95": ci95},
        "within_interval": bool(difference >= -ci95),
        "chosen": {name: sum(r.name == name for r in chosen) for name in sorted({r.name for r in chosen})},
        "ms": round(float(np.median([sum(r.ms for r in group) for group in groups])), 1),
    }


def _row(values: Any) -> dict[str, float]:
    mean, ci95 = _mean(values)
    return {"mean": mean, "ci95": ci95}


def _mean(values: Any) -> tuple[float, float]:
    return round(float(values.mean()), 3), round(float(1.96 * values.std(ddof=1) / math.sqrt(len(values))), 3)


def summarise_all(records: Sequence[Record], weight: float, budget_ms: float) -> dict[str, Any]:
    """Setting by setting, and over all the tasks."""
    names = list(dict.fromkeys(record.setting for record in records))
    rows = {name: summarise([record for record in records if record.setting == name], weight, budget_ms) for name in names}
    return {**rows, "all": summarise(records, weight, budget_ms)}


def compare_weights(records: Sequence[Record], budget_ms: float) -> dict[str, Any]:
    """The mean accuracy of auto over all tasks for each weight of the prior."""
    return {str(weight): summarise(records, weight, budget_ms)["auto"] for weight in WEIGHTS}


def main(
    tasks: Annotated[int, typer.Option(help="Tasks of each setting.")] = 200,
    split: Annotated[str, typer.Option(help="validation chooses, test reports.")] = "test",
    only: Annotated[str, typer.Option(help="Only settings whose name matches this expression, such as `digits` or `omniglot.*5s`.")] = "",
    certify: Annotated[int, typer.Option(help="Validation episodes for initializers whose card has no validation losses; 0: none.")] = 0,
    budget_ms: Annotated[float, typer.Option(help="Time budget of the replayed choice; 0: none.")] = 0.0,
    extra_steps: Annotated[bool, typer.Option(help="Also try other numbers of steps.")] = True,
    threads: Annotated[int, typer.Option(help="Threads of torch.")] = 1,
    records_file: Annotated[Path | None, typer.Option("--records", help="Read from here if it exists, else write there.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="End with one JSON object.")] = False,
) -> None:
    """Measures and replays; prints a line for each setting."""
    torch.set_num_threads(threads)
    budget = budget_ms or math.inf
    if records_file is not None and records_file.exists():
        records = [Record(**each) for each in json.loads(records_file.read_text())]
    else:
        contenders = load_contenders(list_bundled(), certify)
        settings = [setting for setting in SETTINGS if re.search(only, str(setting))]
        chosen_split: Split = "validation" if split == "validation" else "test"
        records = []
        for setting in settings:
            records += measure_setting(setting, chosen_split, tasks, contenders, extra_steps)
            if records_file is not None:  # after each setting: a run that is stopped has measured something
                records_file.write_text(json.dumps([asdict(record) for record in records]))
    rows = summarise_all(records, PRIOR_EXAMPLES, budget)
    for name, row in rows.items():
        auto, gap, best = row["auto"], row["auto_minus_best"], row["best_fixed"]
        against = f"{gap['mean']:+.2f} +- {gap['ci95']:.2f}"
        typer.echo(f"{name:16} auto {auto['mean']:.2f} +- {auto['ci95']:.2f}; against the best fixed, {best}: {against}")
    if as_json:
        settings_json = {"split": split, "tasks": tasks, "prior_examples": PRIOR_EXAMPLES, "budget_ms": budget_ms, "threads": threads}
        typer.echo(
            json.dumps({"benchmark": "auto_choice", "settings": settings_json, "rows": rows, "weights": compare_weights(records, budget)})
        )


if __name__ == "__main__":
    typer.run(main)
