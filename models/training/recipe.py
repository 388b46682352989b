"""Recipes: everything that decides a meta-training, as TOML and as frozen values.

A key that is unknown, or a value of the wrong kind or out of range, is InvalidRecipe naming the key.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from models.backbones import Penalised
from models.card import Limits
from models.episodes import SOURCES, Augmentation, EpisodeShape
from models.errors import InvalidOptions, InvalidRecipe
from models.methods import build_learner
from models.training.tables import parse_table

FOLDER = Path(__file__).parent / "recipes"


@dataclass(frozen=True)
class DataRecipe:
    """Where episodes come from. `rotations`: classes turned by 90 degrees are more classes (Omniglot's only).

    Training only: `reflections`, classes in a mirror are more classes; `augment`, small changes of every image;
    `hierarchy`, the share of episodes, in [0, 1], whose classes all come from one super-class.
    """

    source: str
    rotations: bool = True
    reflections: bool = False
    hierarchy: float = 0.0
    augment: Augmentation | None = None


@dataclass(frozen=True)
class EpisodeRecipe:
    """One meta-batch: `tasks` episodes. With several shapes each step draws one, by `weight`."""

    k_shot: int
    n_query: int
    tasks: int
    n_way: int = 0
    weight: float = 1.0

    @property
    def shape(self) -> EpisodeShape:
        return EpisodeShape(self.n_way, self.k_shot, self.n_query, self.tasks)


@dataclass(frozen=True)
class OuterRecipe:
    """Adam with linear warm-up and cosine decay to zero. `ema_decay` 0 keeps the last weights instead of an average.

    `cost_weight` times the backbone's cost is added to the meta-loss; it needs a backbone that has one (gated-conv4).
    `frozen`: meta-parameters whose names begin so stay as they are, such as a body that is already good.
    """

    meta_steps: int
    learning_rate: float
    warmup: int = 0
    clip_norm: float = 10.0
    ema_decay: float = 0.0
    cost_weight: float = 0.0
    frozen: tuple[str, ...] = ()


@dataclass(frozen=True)
class ValidationRecipe:
    """Judged on validation classes every `every` steps; `keep` says which weights become the initializer."""

    every: int
    episodes: int
    k_shot: int
    n_way: int = 0
    n_query: int = 5
    keep: Literal["best", "last"] = "last"


@dataclass(frozen=True)
class EvaluationRecipe:
    """One row of the card's accuracy table, measured on test classes. `steps` 0 means the learner's own number."""

    k_shot: int
    n_way: int = 0
    n_query: int = 5
    episodes: int = 1000
    steps: int = 0


@dataclass(frozen=True)
class Recipe:
    """A meta-training. `learner` is the spec for `models.methods.build_learner`.

    init_from: the bundled initializer whose weights the training starts from, where names and shapes agree.
    """

    name: str
    seed: int
    learner: Mapping[str, Any]
    data: DataRecipe
    episodes: tuple[EpisodeRecipe, ...]
    outer: OuterRecipe
    validation: ValidationRecipe
    limits: Limits
    evaluation: tuple[EvaluationRecipe, ...] = field(default_factory=tuple)
    init_from: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The recipe as plain JSON values."""
        values: dict[str, Any] = json.loads(json.dumps(asdict(self)))  # lists for tuples, as a reader of the JSON will see it
        return values


def list_recipes() -> list[str]:
    """Names of the recipes that come with the package."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def find_recipe(recipe: str | Path) -> Path:
    """The file of a bundled recipe's name, or of a path. Raises InvalidRecipe."""
    bundled = FOLDER / f"{recipe}.toml"
    if str(recipe) in list_recipes():
        return bundled
    if not Path(recipe).is_file():
        raise InvalidRecipe(f"{recipe} is neither a file nor one of the bundled recipes {list_recipes()}")
    return Path(recipe)


def read_recipe(recipe: str | Path) -> Recipe:
    """The recipe in a TOML file or of a bundled name. Raises InvalidRecipe."""
    path = find_recipe(recipe)
    try:
        return parse_recipe(tomllib.loads(path.read_text(encoding="utf-8")))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as fault:
        raise InvalidRecipe(f"{path.name} is not TOML: {fault}") from fault
    except InvalidRecipe as fault:
        raise InvalidRecipe(f"{path.name}: {fault}") from fault


def parse_recipe(tables: Mapping[str, Any]) -> Recipe:
    """The recipe in parsed TOML (or in the JSON of a checkpoint). `episodes` may be one table or a list of them."""
    tables = dict(tables)
    if isinstance(tables.get("episodes"), Mapping):
        tables["episodes"] = [tables["episodes"]]
    recipe = parse_table(Recipe, tables, "")
    _check_recipe(recipe)
    return recipe


def _check_recipe(recipe: Recipe) -> None:
    if recipe.data.source not in SOURCES:
        raise InvalidRecipe(f"data.source must be one of {list(SOURCES)}, got {recipe.data.source!r}")
    if recipe.data.hierarchy > 1:
        raise InvalidRecipe(f"data.hierarchy must be in [0, 1], got {recipe.data.hierarchy}")
    if not recipe.episodes:
        raise InvalidRecipe("episodes must hold at least one table")
    if not recipe.outer.ema_decay < 1:
        raise InvalidRecipe(f"outer.ema_decay must be below 1, got {recipe.outer.ema_decay}")
    try:
        learner = build_learner(recipe.learner)
    except InvalidOptions as fault:
        raise InvalidRecipe(f"learner: {fault}") from fault
    if recipe.outer.cost_weight and not isinstance(getattr(learner, "backbone", None), Penalised):
        raise InvalidRecipe("outer.cost_weight needs a backbone that has a cost: gated-conv4")
    if learner.kind == "classification":
        _check_ways(recipe)


def _check_ways(recipe: Recipe) -> None:
    shapes: list[tuple[str, int]] = [(f"episodes[{i}]", row.n_way) for i, row in enumerate(recipe.episodes)]
    shapes += [(f"evaluation[{i}]", row.n_way) for i, row in enumerate(recipe.evaluation)]
    for where, n_way in [*shapes, ("validation", recipe.validation.n_way)]:
        if n_way < 2:
            raise InvalidRecipe(f"{where}.n_way must be at least 2 for classification, got {n_way}")
