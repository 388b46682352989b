"""Hypernet against its two passes written out for one task, and against the prototypical network that it starts as."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from models.errors import InvalidOptions
from models.learner import Explains
from models.methods import build_learner
from models.methods.hypernet import Hypernet
from models.support import Params, Support, make_support, split_state, stack_supports
from tests.models.methods.tiny_tasks import golden_outputs, is_gradient_of_differences, make_task

SPEC = {"method": "hypernet", "kind": "classification", "input_shape": [3], "width": 5, "backbone": {"kind": "mlp", "hidden": [6, 4]}}
IMAGES = {
    "method": "hypernet",
    "kind": "classification",
    "input_shape": [1, 8, 8],
    "width": 5,
    "backbone": {"kind": "conv4", "filters": 4, "groups": 2},
}


def build(spec: dict[str, Any] = SPEC, seed: int = 0, noise: float = 0.3) -> tuple[Hypernet, Params]:
    """A learner with float64 parameters, none of which is at a neutral start unless `noise` is zero."""
    learner = build_learner(spec)
    assert isinstance(learner, Hypernet)
    generator = torch.Generator().manual_seed(seed)
    fresh = learner.init(generator)
    return learner, {n: t.double() + noise * torch.randn(t.shape, generator=generator, dtype=torch.float64) for n, t in fresh.items()}


def dense(params: Params, name: str, inputs: Tensor) -> Tensor:
    return F.linear(inputs, params[f"{name}.weight"], params.get(f"{name}.bias"))


def mlp_by_hand(params: Params, biases: list[Tensor], inputs: Tensor) -> Tensor:
    hidden = F.relu(F.linear(inputs, params["body.linear1.weight"], biases[0]))
    return F.relu(F.linear(hidden, params["body.linear2.weight"], biases[1]))


def logits_by_hand(params: Params, support: Support, queries: Tensor) -> Tensor:
    """Both passes for one task and an MLP, class by class."""
    inputs, targets, ways = support.inputs[0], support.targets[0], support.max_way
    shared = [params[f"body.linear{i}.bias"] for i in (1, 2)]
    examples = F.relu(dense(params, "set.example", mlp_by_hand(params, shared, inputs)))
    classes = torch.stack([F.relu(dense(params, "set.class", examples[targets == c].mean(0))) for c in range(ways)])
    size = torch.tensor([math.log(ways), math.log(len(inputs) / ways)], dtype=torch.float64)
    task = F.relu(dense(params, "set.task", torch.cat([classes.mean(0), size])))
    own = [bias + dense(params, f"film.linear{i}.bias", task) for i, bias in enumerate(shared, start=1)]

    features, asked = mlp_by_hand(params, own, inputs), mlp_by_hand(params, own, queries)
    means = [features[targets == c].mean(0) for c in range(ways)]
    centre = torch.stack(means).mean(0)
    columns = []
    for mean in means:
        hidden = F.relu(dense(params, "head.class", mean - centre) + dense(params, "head.task", task))
        row = dense(params, "head.row", hidden)
        weight, bias = 2 * (mean - centre) + row[:-1], row[-1] - ((mean - centre) ** 2).sum()
        columns.append((asked - centre) @ weight + bias)
    return torch.stack(columns, 1)


def test_the_weights_that_answer_are_those_that_two_passes_emit() -> None:
    learner, params = build()
    support, queries, _ = make_task(learner, (1, 3, 2), seed=1)
    logits = learner.predict(params, learner.adapt(params, support).state, queries[None])[0]
    torch.testing.assert_close(logits, logits_by_hand(params, support, queries), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("spec", [SPEC, IMAGES], ids=["mlp", "conv4"])
def test_before_training_it_is_the_prototypical_network_of_its_body(spec: dict[str, Any]) -> None:
    learner, params = build(spec, noise=0)
    prototypes = build_learner({key: value for key, value in spec.items() if key != "width"} | {"method": "protonet"})
    body = {name.removeprefix("body."): tensor for name, tensor in params.items() if name.startswith("body.")}
    support, queries, _ = make_task(learner, (1, 3, 2), seed=1)
    answers = learner.predict(params, learner.adapt(params, support).state, queries[None]).softmax(-1)
    expected = prototypes.predict(body, prototypes.adapt(body, support).state, queries[None]).softmax(-1)
    torch.testing.assert_close(answers, expected, rtol=1e-9, atol=1e-12)


def test_the_state_has_scales_shifts_and_a_classifier_and_no_convolution() -> None:
    learner, params = build(IMAGES)
    support, _, _ = make_task(learner, (2, 1), seed=2)
    state = learner.adapt(params, support).state
    film = {f"film.norm{block}.{kind}" for block in range(1, 5) for kind in ("scale", "shift")}
    assert set(state) == film | {"class.weight", "class.bias", "class.mask", "centre"}


def test_a_task_is_answered_by_the_body_with_its_own_scales_and_shifts() -> None:
    learner, params = build(IMAGES)
    supports = [make_task(learner, shots, seed=seed)[0] for seed, shots in enumerate([(2, 1), (1, 1, 3)])]
    queries = torch.rand(2, 4, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    state = learner.adapt(params, stack_supports(supports)).state
    logits = learner.predict(params, state, queries)
    for lane, own in enumerate(split_state(state)):
        body = {name.removeprefix("body."): tensor for name, tensor in params.items() if name.startswith("body.")}
        film = {name.removeprefix("film."): tensor[0] for name, tensor in own.items() if name.startswith("film.")}
        assert all(not torch.equal(film[name], body[name]) for name in film)
        features = learner.backbone.features({**body, **film}, queries[lane][None])[0]
        expected = (features - own["centre"]) @ own["class.weight"][0].T + own["class.bias"]
        torch.testing.assert_close(logits[lane, :, : expected.shape[1]], expected, rtol=1e-9, atol=1e-9)


def test_more_shots_of_one_class_weigh_no_more_but_for_their_number() -> None:
    learner, params = build()
    params["set.task.weight"][:, -2:] = 0  # deaf to ways and shots
    support, queries, _ = make_task(learner, (1, 2), seed=4)
    copied = make_support(support.inputs[0, [0, 0, 0, 1, 2]], torch.tensor([0, 0, 0, 1, 1]), 2)
    once, thrice = (learner.predict(params, learner.adapt(params, s).state, queries[None]) for s in (support, copied))
    torch.testing.assert_close(thrice, once, rtol=1e-9, atol=1e-9)
    params["set.task.weight"][:, -1] = 1
    once, thrice = (learner.predict(params, learner.adapt(params, s).state, queries[None]) for s in (support, copied))
    assert not torch.allclose(thrice, once)


def test_the_meta_gradient_is_the_one_of_finite_differences() -> None:
    learner, params = build(seed=4)
    params = {name: tensor.requires_grad_() for name, tensor in params.items()}
    assert is_gradient_of_differences(learner, params, make_task(learner, (1, 2, 1), seed=4))


def test_adapting_without_training_keeps_no_graph() -> None:
    learner, params = build()
    params = {name: tensor.requires_grad_() for name, tensor in params.items()}
    adaptation = learner.adapt(params, make_task(learner, (1, 1), seed=0)[0])
    assert not any(tensor.requires_grad for tensor in (*adaptation.state.values(), adaptation.loss))


def test_before_training_the_explanation_adds_up_to_the_margin_over_the_runner_up() -> None:
    learner, params = build(noise=0)
    support, queries, _ = make_task(learner, (2, 3, 2), seed=5)
    state = learner.adapt(params, support).state
    logits, features = learner.predict(params, state, queries[None])[0], learner.embed(params, queries[None])[0]
    weights = learner.explain(params, state, support, queries[None])[0]
    targets, examples = support.targets[0], learner.embed(params, support.inputs)[0]
    for row, logit, feature in zip(weights, logits, features, strict=True):
        best, second = logit.topk(2).indices.tolist()
        margin = logit[best] - logit[second] - state["class.bias"][0, best] + state["class.bias"][0, second]
        kernel = (examples - state["centre"][0]) @ (feature - state["centre"][0]) / targets.bincount()[targets]
        total = 2 * kernel[(targets == best) | (targets == second)].abs().sum()
        torch.testing.assert_close(row.sum() * total, margin, rtol=1e-9, atol=1e-9)
        assert (row[(targets != best) & (targets != second)] == 0).all()


def test_explanations_are_shares_and_padding_has_none() -> None:
    learner, params = build(IMAGES)
    assert isinstance(learner, Explains)
    support = stack_supports([make_task(learner, shots, seed=6)[0] for shots in ((2, 1, 4), (1, 1))])
    queries = torch.rand(2, 3, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(7))
    weights = learner.explain(params, learner.adapt(params, support).state, support, queries)
    torch.testing.assert_close(weights.abs().sum(-1), torch.ones(2, 3, dtype=torch.float64))
    assert (weights[1, :, 2:] == 0).all()


@pytest.mark.parametrize(
    ("options", "words"),
    [({"width": 0}, "hypernet width must be at least 1, got 0"), ({"kind": "regression"}, "hypernet does classification only")],
)
def test_bad_options_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidOptions, match=words):
        build_learner({**SPEC, **options})


# Printed by golden_outputs(*build(seed=5)).tolist(); print it again when a formula changes by intent.
GOLDEN = [
    [-0.22727167562855088, -0.4701603237023291, -6.858498178437845],
    [-2.666556437098044, -1.3066144766391719, -4.78596168339614],
    [-6.176114066900139, -2.5100754668397043, -1.8040686366675436],
]


def test_golden_outputs() -> None:
    torch.testing.assert_close(golden_outputs(*build(seed=5)), torch.tensor(GOLDEN, dtype=torch.float64), rtol=1e-8, atol=1e-8)
