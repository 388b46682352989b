"""A whole meta-training: recipe in, initializer folder out; stops and resumes between steps.

The run's folder holds `checkpoint.safetensors`, `log.csv`, `curve.png`, and at the end `initializer/`.
"""

from __future__ import annotations

import math
import shlex
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from rich.console import Console

from models.artifact import Card, load_initializer, read_card, save_initializer
from models.episodes import EpisodeSource, open_episodes
from models.errors import InvalidOptions, InvalidRecipe
from models.evaluation import EvaluationPlan, measure
from models.methods import build_learner
from models.support import Params
from models.training.checkpoint import FILE, Checkpoint, Progress, load_checkpoint, save_checkpoint
from models.training.display import Display
from models.training.evidence import Making, measure_confidence, measure_rows, write_card
from models.training.init_from import find_bundled, take_params
from models.training.log import LogRow, TrainingLog, draw_curve
from models.training.outer_loop import OuterLoop, learning_rate_at
from models.training.provenance import describe_command, name_recipe, read_git_revision
from models.training.recipe import Recipe, parse_recipe, read_recipe
from models.training.stop import StopRequest

INITIALIZER_FOLDER = "initializer"
LOG_EVERY = 50
CHECKPOINT_EVERY_S = 60.0
VALIDATION_SEED = 1_000_003
"""Apart from the training's generator, so that every validation sees the same episodes and disturbs nothing."""


@dataclass(frozen=True)
class Outcome:
    """How a call of `train` ended: with an initializer, or stopped with the command that goes on."""

    step: int
    meta_steps: int
    folder: Path
    initializer: Path | None
    card: Card | None
    stopped_by: str | None
    resume_command: str | None


def train(
    recipe: str | Path,
    *,
    out: Path,
    resume: bool = False,
    init_from: Path | None = None,
    steps: int | None = None,
    seed: int | None = None,
    threads: int | None = None,
    device: str = "cpu",
    max_seconds: float | None = None,
    console: Console | None = None,
) -> Outcome:
    """Meta-trains `recipe` in the folder `out`, or goes on there with `resume`.

    `init_from` starts from an initializer folder's weights; `steps` and `seed` replace the recipe's; `threads` bounds
    torch's threads; `max_seconds` stops this call, resumably. Raises InvalidRecipe, InvalidOptions, DataUnavailable
    and CheckpointCorrupt.
    """
    if threads:
        torch.set_num_threads(threads)
    chosen = _override(read_recipe(recipe), steps, seed)
    command = describe_command(recipe, steps=steps, seed=seed, init_from=read_card(init_from).name if init_from else None, threads=threads)
    run = _Run(chosen, out, device, console or Console(stderr=True), command)
    if resume:
        run.resume(is_length_given=steps is not None)
    else:
        run.begin(init_from)
    with StopRequest(max_seconds) as stop:
        run.advance(stop)
        stopped_by = None if run.is_finished else stop.reason
    if stopped_by:
        words = ["innerloop", "train", name_recipe(recipe), "--out", str(out), "--resume"]
        words += ["--threads", str(threads)] if threads else []
        words += ["--device", device] if device != "cpu" else []
        return Outcome(run.step, run.meta_steps, out, None, None, stopped_by, shlex.join(words))
    folder, card = run.finish()
    return Outcome(run.step, run.meta_steps, out, folder, card, None, None)


def _override(recipe: Recipe, steps: int | None, seed: int | None) -> Recipe:
    if steps is not None:
        if steps < 1:
            raise InvalidOptions(f"steps must be at least 1, got {steps}")
        recipe = replace(recipe, outer=replace(recipe.outer, meta_steps=steps))
    return recipe if seed is None else replace(recipe, seed=seed)


class _Run:
    """One training in its folder: owns the loop, the log and the best weights so far."""

    def __init__(self, recipe: Recipe, out: Path, device: str, console: Console, command: str) -> None:
        self._recipe, self._out, self._device, self._console = recipe, out, device, console
        self._learner = build_learner(recipe.learner)
        self._progress = Progress(0, 0.0, recipe.to_json(), command, git_revision=read_git_revision())
        self._window: list[tuple[float, float]] = []
        self._best: Params = {}
        self._loop: OuterLoop
        self._validation_source: EpisodeSource

    @property
    def step(self) -> int:
        return self._loop.step

    @property
    def meta_steps(self) -> int:
        return self._recipe.outer.meta_steps

    @property
    def is_finished(self) -> bool:
        return self.step >= self.meta_steps

    def begin(self, init_from: Path | None) -> None:
        """Starts anew, from `init_from` or what the recipe names. Raises InvalidOptions when the folder holds a training already."""
        if (self._out / FILE).exists():
            raise InvalidOptions(f"{self._out} holds a training already: continue it with --resume, or choose another --out")
        params = self._learner.init(torch.Generator().manual_seed(self._recipe.seed))
        init_from = init_from or find_bundled(self._recipe.init_from)
        if init_from is not None:
            name = read_card(init_from).name
            params, taken = take_params(load_initializer(init_from).params, params, name)
            if fresh := sorted(set(params) - taken):
                self._console.print(f"{len(taken)} tensors are taken from {read_card(init_from).name}; these start fresh: {fresh}")
        self._open(params)
        self._out.mkdir(parents=True, exist_ok=True)

    def resume(self, *, is_length_given: bool) -> None:
        """Goes on from the checkpoint; its length and seed hold unless a length was given."""
        checkpoint = load_checkpoint(self._out)
        kept = parse_recipe(checkpoint.progress.recipe)
        length = self._recipe.outer.meta_steps if is_length_given else kept.outer.meta_steps
        self._recipe = replace(self._recipe, seed=kept.seed, outer=replace(self._recipe.outer, meta_steps=length))
        _check_same_training(kept, self._recipe)
        command = checkpoint.progress.trained_with + (f"; then --resume --steps {length}" if length != kept.outer.meta_steps else "")
        self._progress = replace(checkpoint.progress, recipe=self._recipe.to_json(), trained_with=command)
        self._best = checkpoint.tensors["best"]
        self._window = [(loss, accuracy) for loss, accuracy in checkpoint.progress.window]
        self._open(self._learner.init(torch.Generator()))
        self._loop.restore(checkpoint.progress.step, checkpoint.tensors, checkpoint.generator)

    def advance(self, stop: StopRequest) -> None:
        """Steps until the end or a stop; leaves a checkpoint either way."""
        self._started, self._seconds_before = time.monotonic(), self._progress.seconds
        display = Display(self._console, self._recipe.name, self.step, self.meta_steps, self._loop.tasks_per_step)
        with TrainingLog(self._out, self._progress.log_bytes) as log, display:
            saved = self._started
            while not self.is_finished and stop.reason is None:
                loss, accuracy = self._loop.advance()
                self._window.append((loss, accuracy))
                display.show_step(self.step, *_mean(self._window))
                self._log_if_due(log, display)
                if time.monotonic() - saved > CHECKPOINT_EVERY_S:
                    self._save(log)
                    saved = time.monotonic()
            self._save(log)

    def finish(self) -> tuple[Path, Card]:
        """Measures the kept weights, writes the initializer folder and the curve."""
        params = self._best or self._loop.average
        done = self._progress
        made = Making(done.best_step or self.step, done.trained_with, done.seconds, self._device, done.git_revision)
        rows = measure_rows(self._recipe, self._learner, params)
        confidence = measure_confidence(self._recipe, self._learner, params)
        card = write_card(self._recipe, self._learner, made, rows, confidence)
        card = save_initializer(self._out / INITIALIZER_FOLDER, card, params)
        draw_curve(self._out, self._recipe.name)
        return self._out / INITIALIZER_FOLDER, card

    def _open(self, params: Params) -> None:
        data = self._recipe.data
        source = open_episodes(
            data.source,
            "train",
            rotations=data.rotations,
            reflections=data.reflections,
            augmentation=data.augment,
            hierarchy=data.hierarchy,
        )
        if source.kind != self._learner.kind or source.input_shape != self._learner.input_shape:
            found = f"{self._learner.kind} of {self._learner.input_shape}"
            raise InvalidRecipe(f"learner must do {source.kind} of {source.input_shape}, as {data.source} asks; got {found}")
        self._validation_source = open_episodes(data.source, "validation", rotations=data.rotations)
        self._loop = OuterLoop(self._recipe, self._learner, source, params, self._device)

    def _log_if_due(self, log: TrainingLog, display: Display) -> None:
        is_judged = self.step % self._recipe.validation.every == 0 or self.is_finished
        if not is_judged and len(self._window) < LOG_EVERY:
            return
        loss, accuracy = _mean(self._window)
        rate = learning_rate_at(self._recipe.outer, self.step - 1)
        row = LogRow(self.step, loss, None if math.isnan(accuracy) else accuracy, rate, self._count_seconds())
        if is_judged:
            row = self._judge(row)
            display.show_validation(row, "%" if self._learner.kind == "classification" else "MSE")
        log.append(row)
        self._window.clear()

    def _judge(self, row: LogRow) -> LogRow:
        """Validation of the averaged weights, which are kept when they are the best so far and the recipe wants the best."""
        asked = self._recipe.validation
        plan = EvaluationPlan(asked.k_shot, asked.n_way, asked.episodes, asked.n_query, None, "validation", VALIDATION_SEED)
        result = measure(self._learner, self._loop.average, self._validation_source, plan, rotated=self._recipe.data.rotations)
        figure = result.accuracy if result.accuracy is not None else result.mse
        if figure is None:
            advice = "lower learner.inner_lr or its steps; the last checkpoint is still good"
            raise InvalidRecipe(f"the inner loop diverged in {result.diverged_episodes} of {asked.episodes} validation episodes: {advice}")
        score = figure if self._learner.kind == "classification" else -figure
        if asked.keep == "best" and (self._progress.best_score is None or score > self._progress.best_score):
            self._best = {name: tensor.clone() for name, tensor in self._loop.average.items()}
            self._progress = replace(self._progress, best_score=score, best_step=self.step)
        return replace(row, validation=figure, validation_ci95=result.ci95)

    def _save(self, log: TrainingLog) -> None:
        window = [list(pair) for pair in self._window]
        self._progress = replace(self._progress, step=self.step, seconds=self._count_seconds(), log_bytes=log.position, window=window)
        tensors = {**self._loop.tensors(), "best": self._best}
        save_checkpoint(self._out, Checkpoint(self._progress, tensors, self._loop.generator.get_state()))

    def _count_seconds(self) -> float:
        return self._seconds_before + time.monotonic() - self._started


def _check_same_training(kept: Recipe, asked: Recipe) -> None:
    """Raises InvalidRecipe when what shapes the weights differs; validation, limits and evaluation may change."""
    for key in ("name", "learner", "data", "episodes"):
        if getattr(kept, key) != getattr(asked, key):
            raise InvalidRecipe(f"{key} differs from the checkpoint's: {getattr(kept, key)}; start a new training in another --out")
    if replace(kept.outer, meta_steps=asked.outer.meta_steps) != asked.outer:
        raise InvalidRecipe(f"outer differs from the checkpoint's: {kept.outer}; only meta_steps may change (--steps)")


def _mean(window: list[tuple[float, float]]) -> tuple[float, float]:
    losses, accuracies = zip(*window, strict=True)
    return sum(losses) / len(window), sum(accuracies) / len(window)
