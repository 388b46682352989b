"""A short meta-training of a learner on the episodes of the recipe omniglot-maml: what design decisions are measured with."""

from __future__ import annotations

import platform
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from models.episodes import EpisodeSource, open_episodes
from models.learner import Learner
from models.support import Params
from models.training import read_recipe
from models.training.outer_loop import OuterLoop
from models.training.recipe import Recipe


@dataclass(frozen=True)
class ShortTraining:
    """The recipe cut to `steps`, its training classes, and the validation classes that judge."""

    recipe: Recipe
    source: EpisodeSource
    judge: EpisodeSource

    def train(self, learner: Learner) -> Params:
        """The averaged meta-parameters at the end."""
        loop = OuterLoop(self.recipe, learner, self.source, learner.init(torch.Generator().manual_seed(self.recipe.seed)))
        while loop.step < self.recipe.outer.meta_steps:
            loop.advance()
        return loop.average

    def describe(self, threads: int) -> dict[str, Any]:
        """What a reader needs to run it again."""
        episodes = asdict(self.recipe)["episodes"]
        machine = {"machine": platform.machine(), "threads": threads, "torch": torch.__version__}
        return {**machine, "meta_steps": self.recipe.outer.meta_steps, "episodes": episodes}


def open_short_training(steps: int) -> ShortTraining:
    """Omniglot, augmented for training as in the recipe. Raises DataUnavailable."""
    recipe = read_recipe("omniglot-maml")
    recipe = replace(recipe, outer=replace(recipe.outer, meta_steps=steps))
    source = open_episodes("omniglot", "train", augmentation=recipe.data.augment)
    return ShortTraining(recipe, source, open_episodes("omniglot", "validation"))
