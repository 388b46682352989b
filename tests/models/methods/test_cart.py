"""CART trees as tensors against scikit-learn's own classifier, and against what must hold of any tree."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from sklearn.tree import DecisionTreeClassifier
from torch import Tensor

from models.episodes import EpisodeBatch
from models.methods import build_learner, cart
from models.methods.cart import Growth
from models.methods.hard_tree import HardTree
from models.methods.tree import Tree
from models.methods.tree_growth import GrowthForecast
from models.serving import make_template
from models.state_format import describe_states
from models.support import Params, State, Support, make_support, split_state, stack_states, stack_supports
from tests.models.methods.tiny_tasks import make_task

SPEC = {
    "method": "tree",
    "kind": "classification",
    "input_shape": [3],
    "variant": "cart",
    "backbone": {"kind": "mlp", "hidden": [6, 4]},
}
ASKS = pytest.mark.parametrize("asks", ["margin", "distance", "feature"])
ABSOLUTELY_NOTHING = torch.tensor(0.0, dtype=torch.float64)


def build(seed: int = 0, **options: Any) -> tuple[Tree, Params]:
    learner = build_learner({**SPEC, **options})
    assert isinstance(learner, Tree)
    return learner, {name: t.double() for name, t in learner.init(torch.Generator().manual_seed(seed)).items()}


def draw(shots: tuple[int, ...], width: int, seed: int, spread: float = 1.0) -> tuple[Tensor, Support]:
    """Features (1, n, width) of classes that overlap the more the larger `spread`, and their support set."""
    generator = torch.Generator().manual_seed(seed)
    targets = torch.repeat_interleave(torch.arange(len(shots)), torch.tensor(shots))
    centres = torch.randn(len(shots), width, generator=generator, dtype=torch.float64)
    features = centres[targets] + spread * torch.randn(len(targets), width, generator=generator, dtype=torch.float64)
    return features.unsqueeze(0), make_support(features, targets, len(shots))


def answers_by_hand(asks: str, features: Tensor, means: Tensor) -> Tensor:
    """What features (n, d) say to each question, one at a time."""
    if asks == "feature":
        return features
    rows = []
    for feature in features:
        distances = [float(((feature - mean) ** 2).sum()) for mean in means]
        if asks == "margin":
            others = [min(d for k, d in enumerate(distances) if k != c) for c in range(len(means))]
            margins = [(other - own) / (other + own) for own, other in zip(distances, others, strict=True)]
            distances = [max(-0.1, min(0.1, margin)) for margin in margins]
        rows.append(distances)
    return torch.tensor(rows, dtype=torch.float64)


def count_by_leaf(state: State) -> Tensor:
    """How many examples each leaf of the only lane has, (leaves,)."""
    counts = state["example.leaf"][0].bincount()
    return counts[counts > 0]


@ASKS
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_tensors_answer_as_the_classifier_of_scikit_learn(asks: Any, seed: int) -> None:
    features, support = draw((60, 40, 80), width=5, seed=seed, spread=2.0)
    queries = 2 * torch.randn(1, 50, 5, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    targets = support.targets[0]
    means = torch.stack([features[0, targets == c].mean(0) for c in range(3)])
    # Two questions about classes that overlap: no two splits are equally good, so the order of rows and columns decides nothing.
    classifier = DecisionTreeClassifier(max_depth=2, min_samples_leaf=10, class_weight="balanced")
    classifier.fit(answers_by_hand(asks, features[0], means).numpy(), targets.numpy())
    expected = torch.from_numpy(classifier.predict_proba(answers_by_hand(asks, queries[0], means).float().numpy()))
    state = cart.grow_trees(asks, features, support, [Growth(2, 10)])
    answers = cart.leaf_frequencies(state, cart.find_leaves(asks, state, queries), ABSOLUTELY_NOTHING)
    torch.testing.assert_close(answers[0], expected, rtol=1e-6, atol=1e-9)
    assert count_by_leaf(state).numel() == classifier.get_n_leaves() > 2


@ASKS
def test_a_support_example_finds_the_leaf_that_it_was_fitted_into(asks: Any) -> None:
    features, support = draw((3, 1, 5, 2), width=5, seed=3)
    state = cart.grow_trees(asks, features, support, [Growth(8, 1)])
    assert torch.equal(cart.find_leaves(asks, state, features), state["example.leaf"])


@pytest.mark.parametrize(("depth", "min_leaf"), [(1, 1), (2, 1), (3, 4), (8, 7)])
def test_a_tree_grows_no_further_than_it_may(depth: int, min_leaf: int) -> None:
    features, support = draw((12, 12, 12, 12), width=5, seed=4)
    state = cart.grow_trees("feature", features, support, [Growth(depth, min_leaf)])
    counts = count_by_leaf(state)
    assert 1 < len(counts) <= 2**depth
    assert counts.min() >= min_leaf


def test_with_one_shot_and_room_for_every_class_the_margin_tree_is_the_nearest_class_mean() -> None:
    features, support = draw((1,) * 12, width=6, seed=5)
    queries = torch.randn(1, 200, 6, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    state = cart.grow_trees("margin", features, support, [Growth(11, 1)])
    answers = cart.leaf_frequencies(state, cart.find_leaves("margin", state, queries), ABSOLUTELY_NOTHING)
    nearest = torch.cdist(queries, features).argmin(-1)
    torch.testing.assert_close(answers, F.one_hot(nearest, 12).double())


def test_a_margin_tree_names_one_class_more_than_it_has_questions() -> None:
    features, support = draw((1,) * 12, width=6, seed=5)
    state = cart.grow_trees("margin", features, support, [Growth(4, 1)])
    alone = cart.leaf_frequencies(state, state["example.leaf"], ABSOLUTELY_NOTHING)[0].eq(1).any(1)
    assert alone.sum() == 4  # the other eight share the last leaf


@pytest.mark.parametrize("asks", ["margin", "distance"])
def test_ties_between_splits_are_broken_by_looks_and_not_by_numbering(asks: Any) -> None:
    features, support = draw((1,) * 8, width=5, seed=7)  # with one shot all splits that part whole classes are equally good
    queries = torch.randn(1, 50, 5, generator=torch.Generator().manual_seed(8), dtype=torch.float64)
    order = torch.tensor([5, 2, 7, 0, 3, 6, 1, 4])
    renamed = make_support(features[0, order], torch.tensor([3, 1, 0, 6, 2, 7, 5, 4]), 8)
    answers = []
    for own, given in ((support, features), (renamed, features[:, order])):
        state = cart.grow_trees(asks, given, own, [Growth(8, 1)])
        answers.append(cart.leaf_frequencies(state, cart.find_leaves(asks, state, queries), ABSOLUTELY_NOTHING)[0])
    torch.testing.assert_close(answers[1][:, renamed.targets[0]], answers[0][:, order])


def test_classes_that_look_alike_share_their_leaf_evenly() -> None:
    features = torch.tensor([[[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]], dtype=torch.float64)
    state = cart.grow_trees("margin", features, make_support(features[0], torch.arange(3), 3), [Growth(8, 1)])
    answers = cart.leaf_frequencies(state, cart.find_leaves("margin", state, features), ABSOLUTELY_NOTHING)[0]
    expected = torch.tensor([[0.5, 0.5, 0], [0.5, 0.5, 0], [0, 0, 1]], dtype=torch.float64)
    torch.testing.assert_close(answers, expected)


@ASKS
def test_a_class_that_is_alone_is_the_answer(asks: Any) -> None:
    learner, params = build(asks=asks)
    support, queries, _ = make_task(learner, (3,), seed=0)
    logits = learner.predict(params, learner.adapt(params, support).state, queries[None])
    torch.testing.assert_close(logits, torch.zeros_like(logits))


def test_a_leaf_answers_with_smoothed_frequencies_and_names_its_examples() -> None:
    learner, params = build(asks="distance", depths=[1], min_leaves=[2])
    support, queries, _ = make_task(learner, (2, 3, 2), seed=1)
    state = learner.adapt(params, support).state
    targets, smoothing = support.targets[0], 0.1
    leaves = cart.find_leaves("distance", state, learner.embed(params, queries[None]))[0]
    logits, weights = learner.predict(params, state, queries[None])[0], learner.explain(params, state, support, queries[None])[0]
    for row, logit, leaf in zip(weights, logits, leaves, strict=True):
        inside = state["example.leaf"][0] == leaf
        mass = torch.stack([(inside & (targets == c)).sum() / (targets == c).sum() for c in range(3)]).double()
        torch.testing.assert_close(logit.exp(), (mass + smoothing / 3) / (mass.sum() + smoothing), rtol=1e-6, atol=1e-9)
        shares = inside / targets.bincount()[targets].double() / mass.sum()
        torch.testing.assert_close(row, torch.where(targets == mass.argmax(), shares, -shares))


def test_trees_of_different_sizes_travel_as_tensors_and_answer_in_one_batch() -> None:
    learner, params = build()
    supports = [make_task(learner, shots, seed=seed)[0] for seed, shots in enumerate([(1, 1), (2, 1, 4), (1,) * 6])]
    states = split_state(learner.adapt(params, stack_supports(supports)).state)
    template = make_template(learner, {name: tensor.float() for name, tensor in params.items()})
    template = {name: tensor.double() if tensor.is_floating_point() else tensor for name, tensor in template.items()}
    form = describe_states(template, params)
    decoded = [form.decode(form.encode(state)).state for state in states]
    queries = torch.rand(3, 4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    together = learner.predict(params, stack_states(decoded), queries)
    for lane, (support, state) in enumerate(zip(supports, states, strict=True)):
        assert state["example.node_low"].shape == (1, support.inputs.shape[1], cart.NODES_PER_EXAMPLE)
        alone = learner.predict(params, learner.adapt(params, support).state, queries[lane : lane + 1])
        torch.testing.assert_close(together[lane : lane + 1, :, : support.max_way], alone)


class TestMetaTraining:
    """The objective that stands in for the gradient which a tree does not have."""

    def batch(self, learner: Tree) -> EpisodeBatch:
        tasks = [make_task(learner, (1,) * 6, seed=seed) for seed in range(2)]
        queries = torch.stack([support.inputs[0] + 0.01 for support, _, _ in tasks])
        return EpisodeBatch(
            stack_supports([support for support, _, _ in tasks]), queries, torch.stack([answers for _, _, answers in tasks])
        )

    def test_every_meta_parameter_learns(self) -> None:
        learner, params = build(depths=[1, 8], min_leaves=[1, 2])
        params["growth.accuracy.weight"] = torch.full_like(params["growth.accuracy.weight"], 0.1)  # else the layer below it hears nothing
        params = {name: tensor.requires_grad_() for name, tensor in params.items()}
        loss, _ = learner.meta_loss(params, self.batch(learner), 0.0)
        gradients = torch.autograd.grad(loss, list(params.values()))
        silent = {name for name, gradient in zip(params, gradients, strict=True) if gradient.abs().sum() < 1e-9}
        assert silent <= {"body.linear2.bias"}, "which moves all features alike where no unit is at rest: no distance hears of it"

    def test_the_gradient_in_the_forecast_and_the_smoothing_is_the_one_of_finite_differences(self) -> None:
        learner, params = build(depths=[1, 2], min_leaves=[1])
        batch, generator = self.batch(learner), torch.Generator().manual_seed(3)
        growing = [name for name in params if name.startswith(("growth.", "leaf."))]
        noise = {name: 0.1 * torch.randn(params[name].shape, generator=generator, dtype=torch.float64) for name in growing}
        params |= {name: (params[name] + noise[name]).requires_grad_() for name in growing}
        gradients = torch.autograd.grad(learner.meta_loss(params, batch, 0.0)[0], [params[name] for name in growing])
        for name, gradient in zip(growing, gradients, strict=True):
            way = torch.randn(params[name].shape, generator=generator, dtype=torch.float64)
            ends = [learner.meta_loss({**params, name: params[name].detach() + sign * 1e-6 * way}, batch, 0.0)[0] for sign in (1, -1)]
            assert gradient.abs().sum() > 0, name
            torch.testing.assert_close((gradient * way).sum(), (ends[0] - ends[1]).detach() / 2e-6, rtol=1e-5, atol=1e-8, msg=name)

    def test_the_reported_accuracy_is_that_of_the_trees_that_were_chosen(self) -> None:
        learner, params = build(depths=[2, 1])
        batch = self.batch(learner)
        _, accuracy = learner.meta_loss(params, batch, 0.0)
        logits = learner.predict(params, learner.adapt(params, batch.support).state, batch.query_inputs)
        assert accuracy == pytest.approx((logits.argmax(-1) == batch.query_targets).double().mean().item())
        assert accuracy < 1, "six classes do not fit into four leaves"

    def test_the_forecast_finds_out_which_trees_are_the_better_ones(self) -> None:
        learner, params = build(depths=[1, 8], min_leaves=[1, 2])
        trees, batch = learner.trees, self.batch(learner)
        assert isinstance(trees, HardTree)
        params["growth.accuracy.bias"] = torch.tensor([2.0, 2.0, 0.0, 0.0], dtype=torch.float64)  # a prejudice for shallow trees
        growing = [name for name in params if name.startswith("growth.")]
        params = {name: tensor.requires_grad_(name in growing) for name, tensor in params.items()}
        features = learner.embed(params, batch.support.inputs)
        assert {growth.depth for growth in trees.forecast.choose(params, features, batch.support)} == {1}
        adam = torch.optim.Adam([params[name] for name in growing], lr=0.1)
        for _ in range(40):
            adam.zero_grad()
            torch.autograd.backward(learner.meta_loss(params, batch, 0.0)[0])
            adam.step()
        assert trees.forecast.choose(params, features, batch.support) == [Growth(8, 1)] * 2
        forecast = trees.forecast.forecast(params, features, batch.support).sigmoid().mean(0)
        assert forecast[trees.forecast.cells.index(Growth(8, 1))] > 0.8
        assert forecast[trees.forecast.cells.index(Growth(1, 2))] < 0.5


def test_the_forecast_is_blind_to_order_padding_and_names() -> None:
    forecast = GrowthForecast(width=4, depths=(1, 2), min_leaves=(1, 3))
    generator = torch.Generator().manual_seed(0)
    params = {name: torch.randn(t.shape, generator=generator, dtype=torch.float64) for name, t in forecast.init(generator).items()}
    features, support = draw((2, 1, 3), width=4, seed=0)
    _, other = draw((4, 4, 4, 4), width=4, seed=1)
    expected = forecast.forecast(params, features, support)
    order = torch.tensor([4, 1, 0, 5, 3, 2])
    renamed = make_support(features[0, order], torch.tensor([2, 0, 1])[support.targets[0, order]], 3)
    torch.testing.assert_close(forecast.forecast(params, features[:, order], renamed), expected)
    both = stack_supports([other, support])
    torch.testing.assert_close(forecast.forecast(params, both.inputs, both)[1:], expected)


def golden_outputs(asks: str) -> Tensor:
    learner, params = build(seed=5, asks=asks)
    support, queries, _ = make_task(learner, (2, 3, 2), seed=8)
    return learner.predict(params, learner.adapt(params, support).state, queries[None])[0]


# Printed by golden_outputs(asks).tolist(); print them again when a formula changes by intent.
GOLDEN = {
    "margin": [
        [-3.3322045387247012, -0.9343092368577516, -0.5596157865079479],
        [-0.5596157865079479, -0.9343092368577516, -3.3322045387247012],
        [-3.3322045387247012, -0.9343092368577516, -0.5596157865079479],
    ],
    "distance": [
        [-3.1354942437338775, -0.09097177555765745, -3.1354942437338775],
        [-0.06252035510594182, -3.4965075905350593, -3.4965075905350593],
        [-3.4965075905350593, -3.4965075905350593, -0.06252035510594182],
    ],
    "feature": [
        [-3.4965075905350593, -3.4965075905350593, -0.06252035510594182],
        [-0.06252035510594182, -3.4965075905350593, -3.4965075905350593],
        [-3.4965075905350593, -3.4965075905350593, -0.06252035510594182],
    ],
}


@ASKS
def test_golden_outputs(asks: str) -> None:
    torch.testing.assert_close(golden_outputs(asks), torch.tensor(GOLDEN[asks], dtype=torch.float64), rtol=1e-8, atol=1e-8)


def test_few_examples_a_class_make_no_warning() -> None:
    features, support = draw((1,) * 30, width=5, seed=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cart.grow_trees("margin", features, support, [Growth(30, 1)])
