"""FOMAML: the outer gradient is that of the query loss in the adapted weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from models.errors import InvalidOptions
from models.methods import build_learner
from tests.models.methods.tiny_tasks import make_params, make_task, outer_loss, query_loss_of

IMAGE = {"method": "fomaml", "kind": "classification", "input_shape": [1, 16, 16], "backbone": {"kind": "conv4", "filters": 4, "groups": 2}}
CURVE = {"method": "fomaml", "kind": "regression", "input_shape": [1], "inner_steps": 3, "backbone": {"kind": "mlp", "hidden": [7, 5]}}


@pytest.mark.parametrize("spec", [IMAGE, CURVE], ids=["classification", "regression"])
def test_the_outer_gradient_is_the_one_in_the_adapted_weights(spec: dict[str, Any]) -> None:
    learner = build_learner(spec)
    params = make_params(learner)
    support, queries, answers = make_task(learner, (1, 2, 1), seed=4)
    adapted = learner.adapt(params, support).state
    leaves = {name: adapted[name].requires_grad_() for name in adapted if name in params}
    outputs = learner.predict(params, {**adapted, **leaves}, queries.unsqueeze(0))[0]
    expected = torch.autograd.grad(outer_loss(outputs, answers), list(leaves.values()))
    ours = torch.autograd.grad(query_loss_of(learner, params, (support, queries, answers)), [params[name] for name in leaves])
    for mine, theirs in zip(ours, expected, strict=True):
        torch.testing.assert_close(mine, theirs[0], rtol=1e-9, atol=1e-12)


def test_it_adapts_as_maml_does() -> None:
    learner, maml = build_learner(IMAGE), build_learner({**IMAGE, "method": "maml"})
    params = make_params(learner)
    support, queries, answers = make_task(learner, (2, 1), seed=0)
    ours, theirs = learner.adapt(params, support), maml.adapt(params, support)
    assert all(torch.equal(ours.state[name], theirs.state[name]) for name in theirs.state)
    gradients = [torch.autograd.grad(query_loss_of(one, params, (support, queries, answers)), params["body.conv1.weight"])[0]
                 for one in (learner, maml)]  # fmt: skip
    assert not torch.allclose(gradients[0], gradients[1])


def test_second_order_is_refused_with_the_name_of_what_has_it() -> None:
    with pytest.raises(InvalidOptions, match="for second derivatives use maml"):
        build_learner({**IMAGE, "first_order": False})
