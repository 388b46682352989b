"""Meta-training: recipes, the outer loop, checkpoints and logs. `train` is the whole of it."""

from __future__ import annotations

from models.training.recipe import Recipe, list_recipes, read_recipe
from models.training.run import Outcome, train

__all__ = ["Outcome", "Recipe", "list_recipes", "read_recipe", "train"]
