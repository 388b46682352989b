"""From gates that are trained with a cost to the plain initializer that is left."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from models.artifact import load_initializer
from models.backbones import Conv4, GatedConv4
from models.backbones.gated_conv4 import fix_architecture
from models.episodes import EpisodeShape, open_episodes
from models.errors import InvalidOptions, InvalidRecipe
from models.methods import build_learner
from models.training import train
from models.training.fixing import fix_initializer
from models.training.outer_loop import OuterLoop
from models.training.recipe import parse_recipe
from tests.models.small_data import omniglot_recipe, write_small_omniglot, write_toml

GATED = {"kind": "gated-conv4", "filters": 8, "groups": 4, "extra": [3, 4]}


@pytest.fixture(autouse=True)
def small_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_small_omniglot(tmp_path)
    monkeypatch.setenv("INNERLOOP_DATA_DIR", str(tmp_path))


def gated_recipe(cost_weight: float, **changes: Any) -> dict[str, Any]:
    tables = omniglot_recipe(cost_weight=cost_weight, meta_steps=60, learning_rate=1e-2)
    tables["validation"]["keep"] = "last"  # the best on validation may be an early one, with its gates still open
    return {**tables, "learner": {**tables["learner"], "backbone": GATED, **changes}}


def train_gates(cost_weight: float) -> tuple[GatedConv4, dict[str, torch.Tensor], float]:
    """The backbone, its trained parameters and their cost."""
    recipe = parse_recipe(gated_recipe(cost_weight))
    learner = build_learner(recipe.learner)
    loop = OuterLoop(recipe, learner, open_episodes("omniglot", "train"), learner.init(torch.Generator().manual_seed(0)))
    for _ in range(recipe.outer.meta_steps):
        loop.advance()
    backbone = learner.backbone  # type: ignore[attr-defined]
    params = {name: tensor.detach() for name, tensor in loop.params.items()}
    return backbone, params, backbone.cost(params).item()


def test_a_higher_price_makes_a_cheaper_network() -> None:
    free, dear = train_gates(0.0), train_gates(5.0)
    assert free[2] > 0.8
    assert dear[2] < 0.5 * free[2]
    widths = [sum(fix_architecture(backbone, params)[0]["widths"]) for backbone, params, _ in (free, dear)]
    assert widths[1] < widths[0] == 32


def test_a_trained_initializer_is_fixed_with_the_same_answers(tmp_path: Path) -> None:
    recipe = write_toml(tmp_path / "recipe.toml", gated_recipe(5.0))
    outcome = train(recipe, out=tmp_path / "run", console=Console(file=io.StringIO()))
    assert outcome.initializer is not None
    gated = load_initializer(outcome.initializer)
    card = fix_initializer(gated, tmp_path / "fixed")
    fixed = load_initializer(tmp_path / "fixed")
    assert fixed.card == card
    assert isinstance(fixed.learner.backbone, Conv4)  # type: ignore[attr-defined]
    sizes = [sum(tensor.numel() for tensor in one.params.values()) for one in (gated, fixed)]
    assert sizes[1] < 0.7 * sizes[0]
    assert card.trained_with.endswith("; then innerloop fix-architecture")
    figures = [{k: v for k, v in row.items() if k != "seconds"} for row in card.accuracy]
    assert figures == [{k: v for k, v in row.items() if k != "seconds"} for row in gated.card.accuracy]
    batch = open_episodes("omniglot", "test").draw(EpisodeShape(4, 2, 3, 2), torch.Generator().manual_seed(0))
    answers = [i.learner.predict(i.params, i.learner.adapt(i.params, batch.support).state, batch.query_inputs) for i in (gated, fixed)]
    torch.testing.assert_close(answers[1], answers[0], atol=1e-3, rtol=1e-4)


def test_what_has_no_gates_is_not_fixed(tmp_path: Path) -> None:
    recipe = write_toml(tmp_path / "recipe.toml", {**omniglot_recipe(meta_steps=1), "evaluation": []})
    outcome = train(recipe, out=tmp_path / "run", console=Console(file=io.StringIO()))
    assert outcome.initializer is not None
    with pytest.raises(InvalidOptions, match="small-omniglot has no gates to fix"):
        fix_initializer(load_initializer(outcome.initializer), tmp_path / "fixed")
    assert not (tmp_path / "fixed").exists()


def test_a_price_needs_a_backbone_that_has_one() -> None:
    with pytest.raises(InvalidRecipe, match=r"outer\.cost_weight needs a backbone that has a cost: gated-conv4"):
        parse_recipe(omniglot_recipe(cost_weight=0.1))


def test_a_price_reaches_a_body_under_its_prefix() -> None:
    tables = gated_recipe(5.0, method="maml", inner_steps=1)
    recipe = parse_recipe({**tables, "limits": {**tables["limits"], "max_steps": 5}})
    learner = build_learner(recipe.learner)
    loop = OuterLoop(recipe, learner, open_episodes("omniglot", "train"), learner.init(torch.Generator().manual_seed(0)))
    before = loop.params["body.gate2.width"].detach().clone()
    for _ in range(5):
        loop.advance()
    assert (loop.params["body.gate2.width"] < before).all()
