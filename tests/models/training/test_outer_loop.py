from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch

from models.episodes import EpisodeShape, Sinusoid
from models.errors import CheckpointCorrupt, InvalidRecipe
from models.methods import build_learner
from models.training.outer_loop import OuterLoop, learning_rate_at, meta_loss
from models.training.recipe import OuterRecipe, Recipe, parse_recipe
from tests.models.small_data import sinusoid_recipe


def make_loop(recipe: Recipe | None = None) -> OuterLoop:
    recipe = recipe or parse_recipe(sinusoid_recipe())
    learner = build_learner(recipe.learner)
    return OuterLoop(recipe, learner, Sinusoid(), learner.init(torch.Generator().manual_seed(0)))


def test_the_meta_loss_falls_with_training() -> None:
    recipe = parse_recipe(sinusoid_recipe(meta_steps=300, learning_rate=1e-2))
    learner = build_learner(recipe.learner)
    loop = make_loop(recipe)
    batch = Sinusoid().draw(EpisodeShape(0, 10, 20, 100), torch.Generator().manual_seed(9))
    before = meta_loss(learner, loop.params, batch)[0].item()
    for _ in range(300):
        loop.advance()
    assert meta_loss(learner, loop.average, batch)[0].item() < 0.8 * before


def test_the_meta_gradient_goes_through_the_inner_steps() -> None:
    loop = make_loop()
    learner = build_learner(sinusoid_recipe()["learner"])
    batch = Sinusoid().draw(EpisodeShape(0, 5, 5, 2), torch.Generator().manual_seed(0))

    def loss_at(params: dict[str, torch.Tensor]) -> torch.Tensor:
        return meta_loss(learner, params, batch)[0]

    params = {name: tensor.detach().double().requires_grad_() for name, tensor in loop.params.items()}
    batch = replace(batch.to("cpu"), support=batch.support.to("cpu", torch.float64), query_inputs=batch.query_inputs.double())
    batch = replace(batch, query_targets=batch.query_targets.double())
    gradients = dict(zip(params, torch.autograd.grad(loss_at(params), list(params.values())), strict=True))
    nudged = {name: tensor.detach().clone() for name, tensor in params.items()}
    nudged["head.weight"][0, 0] += 1e-6
    nudged = {name: tensor.requires_grad_() for name, tensor in nudged.items()}
    slope = (loss_at(nudged) - loss_at(params)).item() / 1e-6
    assert slope == pytest.approx(gradients["head.weight"][0, 0].item(), rel=1e-3)


def test_what_is_frozen_stays_and_the_rest_learns_also_after_a_checkpoint() -> None:
    recipe = parse_recipe(sinusoid_recipe(frozen=["body."]))
    loop, again = make_loop(recipe), make_loop(recipe)
    before = copy.deepcopy(loop.params)
    loop.advance()
    again.restore(loop.step, copy.deepcopy(loop.tensors()), loop.generator.get_state())
    assert loop.advance() == again.advance()
    for name, tensor in loop.params.items():
        assert torch.equal(tensor, before[name]) == name.startswith("body."), name
        assert torch.equal(tensor, again.params[name]), name


@pytest.mark.parametrize(
    ("frozen", "told"), [(["brain."], "'brain.', with which no meta-parameter begins"), (["body.", "head."], "nothing is left to train")]
)
def test_freezing_nothing_or_everything_is_refused(frozen: list[str], told: str) -> None:
    with pytest.raises(InvalidRecipe, match=told):
        make_loop(parse_recipe(sinusoid_recipe(frozen=frozen)))


def test_the_given_parameters_are_not_written_to() -> None:
    recipe = parse_recipe(sinusoid_recipe())
    learner = build_learner(recipe.learner)
    params = learner.init(torch.Generator().manual_seed(0))
    before = copy.deepcopy(params)
    OuterLoop(recipe, learner, Sinusoid(), params).advance()
    assert all(torch.equal(params[name], before[name]) for name in params)


def test_without_averaging_the_average_is_the_parameters() -> None:
    loop = make_loop(parse_recipe(sinusoid_recipe(ema_decay=0)))
    for _ in range(3):
        loop.advance()
    assert all(torch.equal(loop.average[name], tensor) for name, tensor in loop.params.items())


def test_averaging_lags_behind_the_parameters() -> None:
    loop = make_loop()
    start = {name: tensor.clone() for name, tensor in loop.average.items()}
    for _ in range(5):
        loop.advance()
    moved = {name: (loop.average[name] - start[name]).norm() for name in start}
    arrived = {name: (loop.params[name] - start[name]).norm() for name in start}
    assert all(0 < moved[name] < arrived[name] for name in start)


def test_the_rate_warms_up_and_decays_to_zero() -> None:
    outer = OuterRecipe(meta_steps=100, learning_rate=1.0, warmup=9)
    rates = [learning_rate_at(outer, step) for step in range(101)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) > 0.95
    assert rates[55:] == sorted(rates[55:], reverse=True)
    assert rates[100] == pytest.approx(0)


def test_a_loss_that_is_not_finite_ends_the_training_with_advice() -> None:
    loop = make_loop()
    loop.params["head.bias"].data.fill_(float("inf"))
    with pytest.raises(InvalidRecipe, match=r"at step 0: lower outer\.learning_rate or learner\.inner_lr"):
        loop.advance()


def test_tensors_of_another_learner_are_refused() -> None:
    loop = make_loop()
    tensors = loop.tensors()
    tensors["ema"] = {"stray": torch.zeros(1)}
    with pytest.raises(CheckpointCorrupt, match="the checkpoint's ema must hold"):
        loop.restore(0, tensors, loop.generator.get_state())
