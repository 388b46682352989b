"""ProtoMAML: no step is a prototypical network; steps and meta-gradient against the inner loop written out, and finite differences."""

from __future__ import annotations

import pytest
import torch

from models.errors import InvalidOptions
from models.methods import build_learner
from models.support import stack_supports
from tests.models.methods.tiny_tasks import descend_by_hand, embed_by_hand, is_gradient_of_differences, make_params, make_task
from tests.models.methods.tiny_tasks import prototypes_by_hand as prototypes

SPEC = {
    "method": "protomaml",
    "kind": "classification",
    "input_shape": [3],
    "inner_steps": 2,
    "inner_lr": 0.01,
    "backbone": {"kind": "mlp", "hidden": [5]},
}


def test_all_weights_descend_from_a_head_of_prototypes() -> None:
    learner = build_learner(SPEC)
    params = make_params(learner)
    tasks = [make_task(learner, shots, seed)[0] for seed, shots in enumerate([(1, 2, 1), (3, 1)])]
    state = learner.adapt(params, stack_supports(tasks)).state
    for lane, support in enumerate(tasks):
        weights = {name: tensor for name, tensor in params.items() if name != "answer.log_sharpness"}
        weights["class.weight"], weights["class.bias"] = prototypes(params, support)
        for name, expected in descend_by_hand(weights, set(weights), support, 2, lambda name: 0.01).items():
            ours = state[name][lane][: support.max_way] if name.startswith("class.") else state[name][lane]
            torch.testing.assert_close(ours, expected.detach(), rtol=1e-9, atol=1e-12)


def test_without_a_step_it_is_a_prototypical_network() -> None:
    learner = build_learner(SPEC)
    params = make_params(learner)
    support, queries, _ = make_task(learner, (1, 2, 1), seed=2)
    probabilities = learner.predict(params, learner.adapt(params, support, steps=0).state, queries.unsqueeze(0))[0].softmax(-1)
    features, targets = embed_by_hand(params, support.inputs[0]), support.targets[0]
    centres = torch.stack([features[targets == c].mean(0) for c in range(3)])
    distances = torch.cdist(embed_by_hand(params, queries), centres).square()
    torch.testing.assert_close(probabilities, (-distances * params["answer.log_sharpness"].exp()).softmax(-1))


@pytest.mark.parametrize("seed", [3, 4])
def test_the_meta_gradient_is_the_one_of_finite_differences(seed: int) -> None:
    learner = build_learner(SPEC)
    assert is_gradient_of_differences(learner, make_params(learner, seed), make_task(learner, (1, 2, 1), seed))


def test_regression_is_refused() -> None:
    with pytest.raises(InvalidOptions, match="protomaml does classification only"):
        build_learner({**SPEC, "kind": "regression"})
