"""Laws 1 to 5 of the design, each on every learner.

Law 6, the right generation, is the service's to keep: which version adapts a task and which one answers is decided without a look at the
learner. So it is held where versions are: `test_right_generation.py` has two of every learner side by side in one engine, and
tests/e2e/test_reload_under_traffic.py reloads one learner, prototypical networks, a hundred times under traffic, in one process and in two.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from models.learner import Embeds
from models.methods import BUILT_IN
from models.support import Support, split_state, stack_states, stack_supports
from tests.laws.conftest import World, assert_same
from tests.laws.learners import SPECS


def test_every_method_is_under_the_laws() -> None:
    assert {spec["method"] for spec in SPECS.values()} == set(BUILT_IN)


class TestAloneIsTogether:
    """Law 1: a lane gives the same result in any batch, at any position, with any padding."""

    def test_a_lane_adapts_alike_in_any_company_and_position(self, world: World) -> None:
        tasks = [world.support(2, (1, 1)), world.support(4, (2, 1, 3, 1)), world.support(3, (5, 1, 2))]
        queries = world.inputs(3)
        for order in ([0, 1, 2], [2, 0, 1], [1, 2, 0]):
            states = split_state(world.adapt(stack_supports([tasks[i] for i in order])))
            for task, state in zip(order, states, strict=True):
                together = world.predict(state, queries.unsqueeze(0))[0]
                assert_same(together, world.answer(tasks[task], queries))

    def test_the_adapted_tensors_are_the_same_too(self, world: World) -> None:
        mine, other = world.support(3, (1, 2, 1)), world.support(4, (4, 4, 4, 4))
        alone = split_state(world.adapt(mine))[0]
        together = split_state(world.adapt(stack_supports([other, mine, other])))[1]
        assert alone.keys() == together.keys()
        for name in alone:
            assert_same(together[name], alone[name])

    def test_a_lane_answers_alike_beside_other_states(self, world: World) -> None:
        states = [split_state(world.adapt(world.support(n_way)))[0] for n_way in (2, 4, 3)]
        queries = torch.stack([world.inputs(2) for _ in states])
        together = world.predict(stack_states(states), queries)
        for lane, state in enumerate(states):
            alone = world.predict(state, queries[lane : lane + 1])[0]
            assert_same(together[lane, :, : alone.shape[-1]], alone)

    def test_a_class_that_a_lane_does_not_have_gets_no_probability(self, world: World) -> None:
        if world.learner.kind == "regression":
            return
        states = [split_state(world.adapt(world.support(n_way)))[0] for n_way in (2, 4)]
        together = world.predict(stack_states(states), torch.stack([world.inputs(3)] * 2))
        assert together[0, :, 2:].eq(0).all()
        assert_same(together.sum(-1), torch.ones(2, 3, dtype=torch.float64))

    def test_the_curve_of_a_lane_does_not_know_the_padding(self, world: World) -> None:
        mine, other = world.support(3, (1, 2, 1)), world.support(4, (4, 4, 4, 4))
        alone = world.learner.adapt(world.params, mine)
        together = world.learner.adapt(world.params, stack_supports([other, mine]))
        assert_same(together.loss[1], alone.loss[0])
        assert_same(together.accuracy[1], alone.accuracy[0])


def test_one_query_is_answered_as_in_a_batch_of_many(world: World) -> None:
    """Law 2."""
    state = world.adapt(world.support())
    queries = world.inputs(9)
    queries[4] *= 50  # a neighbour far from everything must not matter
    together = world.predict(state, queries.unsqueeze(0))[0]
    for index, query in enumerate(queries):
        assert_same(world.predict(state, query[None, None])[0, 0], together[index])


def test_permuting_the_support_set_changes_nothing(world: World) -> None:
    """Law 3, first half."""
    support, queries = world.support(), world.inputs(5)
    order = torch.randperm(support.inputs.shape[1], generator=world.generator)
    shuffled = Support(support.inputs[:, order], support.targets[:, order], support.mask[:, order], support.class_mask)
    assert_same(world.answer(shuffled, queries), world.answer(support, queries))


def test_permuting_the_classes_permutes_the_answer(world: World) -> None:
    """Law 3, second half: no class is special before its first example is seen."""
    if world.learner.kind == "regression":
        return
    support, queries = world.support(), world.inputs(5)
    names = torch.tensor([2, 0, 3, 1])
    renamed = Support(support.inputs, names[support.targets], support.mask, support.class_mask)
    assert_same(world.answer(renamed, queries)[:, names], world.answer(support, queries))


@pytest.mark.parametrize("differentiable", [False, True])
def test_adapting_and_predicting_write_nothing_to_the_learner(world: World, differentiable: bool) -> None:
    """Law 4."""
    before = {name: tensor.clone() for name, tensor in world.params.items()}
    support = world.support()
    adaptation = world.learner.adapt(world.params, support, differentiable=differentiable)
    world.predict(adaptation.state, world.inputs(2).unsqueeze(0))
    assert all(torch.equal(world.params[name], tensor) for name, tensor in before.items())
    assert not any(tensor.requires_grad for tensor in world.params.values())


@pytest.mark.parametrize("takes_steps", [True, False])
def test_a_state_shares_no_memory_with_the_learner_or_the_support_set(world: World, takes_steps: bool) -> None:
    """Law 4: whoever scribbles on a state, as the learner returned it, reaches neither the meta-parameters nor the examples.

    Without inner steps too, where the state of a gradient-based learner is the meta-parameters' numbers.
    """
    if not takes_steps and not world.learner.default_steps:
        return
    support = world.support()
    state = world.adapt(support, None if takes_steps else 0)
    given = {**world.params, **{f"support.{name}": tensor for name, tensor in vars(support).items()}}
    shared = {(name, other) for name in state for other in given if share_memory(state[name], given[other])}
    assert shared == set()
    assert all(is_dense(tensor) for tensor in state.values()), "no part of a state is a view of something larger"


def test_the_same_support_gives_the_same_state_bit_for_bit(world: World) -> None:
    """Law 5."""
    support = world.support()
    first, second = world.adapt(support), world.adapt(support)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_the_features_that_an_adaptation_carries_are_those_of_the_embedding(world: World) -> None:
    support = world.support()
    with torch.no_grad():
        features = world.learner.adapt(world.params, support).features
        if features is not None:
            assert isinstance(world.learner, Embeds)
            assert_same(features, world.learner.embed(world.params, support.inputs))


def test_adapting_learns_the_support_set(world: World) -> None:
    """No law, but without it the laws would hold for a learner that does nothing."""
    adaptation = world.learner.adapt(world.params, world.support())
    if world.learner.default_steps:
        assert adaptation.loss[0, -1] < adaptation.loss[0, 0]
    elif world.learner.kind == "classification":
        assert adaptation.accuracy[0, -1] > 0.5  # four classes of random noise: chance is 0.25


def test_what_the_examples_are_called_decides_the_answer(world: World) -> None:
    """No law either: two support sets of the same inputs and other targets are two tasks."""
    support, queries = world.support(), world.inputs(5)
    targets = support.targets + 1 if world.learner.kind == "regression" else support.targets.flip(1)
    other = Support(support.inputs, targets, support.mask, support.class_mask)
    assert (world.answer(other, queries) - world.answer(support, queries)).abs().max() > 1e-3


def is_dense(tensor: Tensor) -> bool:
    """Whether its numbers are all that lies in its memory."""
    return tensor.untyped_storage().nbytes() == tensor.nbytes


def share_memory(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors lie in the same memory, wherever in it; those of no numbers have none."""
    return one.untyped_storage().nbytes() > 0 and one.untyped_storage().data_ptr() == other.untyped_storage().data_ptr()
