"""Every method has a recipe and serves any number of ways; a spec with a fault is refused with the key's name and what it may be."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from models.errors import InvalidOptions
from models.methods import BUILT_IN, build_learner
from models.support import make_support
from models.training import list_recipes, read_recipe
from tests.laws.learners import SPECS

SPEC: dict[str, Any] = {"method": "maml", "kind": "classification", "input_shape": [1, 28, 28], "backbone": {"kind": "conv4"}}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"method": "mamal"}, "method must be one of"),
        ({"kind": "ranking"}, "kind must be one of"),
        ({"inner_learning_rate": 0.1}, "no option .*inner_learning_rate.* it has .*inner_lr"),
        ({"backbone": {"kind": "conv5"}}, "backbone.kind must be one of"),
        ({"backbone": {"kind": "conv4", "filter": 32}}, "no option .*filter"),
        ({"backbone": {"kind": "conv4", "norm": "batch"}}, "norm must be group, layer or none"),
        ({"backbone": {"kind": "conv4", "downsample": "average"}}, "downsample must be stride or pool"),
        ({"backbone": {"kind": "conv4", "filters": 12}}, "multiple of groups"),
        ({"backbone": {"kind": "conv4", "downsample": "pool"}, "input_shape": [1, 8, 8]}, "at least 16x16"),
        ({"input_shape": [784]}, "channels, height, width"),
        ({"backbone": {"kind": "mlp", "hidden": []}}, "at least one positive width"),
        ({"method": "protonet", "kind": "regression"}, "for regression use maml"),
        ({"first_order": "no"}, "first_order must be true or false, got 'no'"),
        ({"first_order": 1}, "first_order must be true or false, got 1"),
        ({"inner_steps": 2.5}, "inner_steps must be a whole number, got 2.5"),
        ({"inner_steps": "3"}, "inner_steps must be a whole number, got '3'"),
        ({"inner_steps": True}, "inner_steps must be a whole number, got True"),
        ({"inner_lr": "0.1"}, "inner_lr must be a number, got '0.1'"),
        ({"inner_lr": False}, "inner_lr must be a number, got False"),
        ({"inner_lr": [0.1]}, r"inner_lr must be a number, got \[0.1\]"),
        ({"body_objective": 1}, "body_objective must be sum or mean, got 1"),
        ({"method": "cnp", "width": "wide"}, "width must be a whole number, got 'wide'"),
        ({"method": "tree", "depths": 4}, "depths must be a list of whole numbers, got 4"),
        ({"method": "tree", "depths": [4, 8.5]}, r"depths must be a list of whole numbers, got \[4, 8.5\]"),
        ({"backbone": {"kind": "conv4", "filters": "64"}}, "backbone.filters must be a whole number, got '64'"),
        ({"backbone": {"kind": "conv4", "widths": [8, 8, "8", 8]}}, "backbone.widths must be a list of whole numbers"),
        ({"backbone": {"kind": "mlp", "hidden": 40}}, "backbone.hidden must be a list of whole numbers, got 40"),
        ({"backbone": {"kind": ["conv4"]}}, "backbone.kind must be one of"),
        ({"backbone": "conv4"}, "backbone must be a table, got 'conv4'"),
        ({"input_shape": 784}, "input_shape must be a list of whole numbers of at least 1, got 784"),
        ({"input_shape": [1, 28, 28.5]}, "input_shape must be a list of whole numbers"),
        ({"input_shape": [1, 0, 28]}, "input_shape must be a list of whole numbers"),
        ({"method": ["maml"]}, "method must be one of"),
    ],
)
def test_a_fault_is_named(change: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidOptions, match=words):
        build_learner({**SPEC, **change})


def test_a_spec_without_a_backbone_is_refused() -> None:
    with pytest.raises(InvalidOptions, match="needs input_shape and backbone"):
        build_learner({"method": "maml", "kind": "classification"})


def test_every_method_has_a_recipe_and_every_recipe_a_learner() -> None:
    recipes = [read_recipe(name) for name in list_recipes()]
    assert {recipe.learner["method"] for recipe in recipes} == set(BUILT_IN)
    for recipe in recipes:
        assert build_learner(recipe.learner).default_steps <= recipe.limits.max_steps


@pytest.mark.parametrize("n_way", [2, 40])
@pytest.mark.parametrize("name", [name for name, spec in SPECS.items() if spec["kind"] == "classification"])
def test_any_number_of_ways_and_unequal_shots_are_served(name: str, n_way: int) -> None:
    learner, generator = build_learner(SPECS[name]), torch.Generator().manual_seed(0)
    targets = torch.cat([torch.arange(n_way), torch.zeros(9, dtype=torch.int64)])
    inputs = torch.rand(len(targets), *learner.input_shape, generator=generator)
    params = learner.init(generator)
    adaptation = learner.adapt(params, make_support(inputs, targets, n_way))
    assert adaptation.loss.isfinite().all()
    with torch.no_grad():
        logits = learner.predict(params, adaptation.state, inputs[None, :3])
    assert logits.shape == (1, 3, n_way)
    assert logits.isfinite().all()
