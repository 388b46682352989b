"""What the three solved heads share: the outer gradient, the weights of examples, explanations, refusals."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from models.errors import InvalidOptions
from models.methods.head_space import Problem
from models.support import stack_supports
from tests.models.methods.tiny_heads import (
    METHODS,
    build,
    check_float32,
    check_outer_gradient,
    make_classes,
    make_params,
    see,
    sharpness_of,
)

every_method = pytest.mark.parametrize("method", METHODS)


@every_method
def test_the_outer_gradient_equals_finite_differences_in_every_meta_parameter(method: str) -> None:
    learner = build(method, width=4)
    check_outer_gradient(learner, make_params(learner, seed=2))


@every_method
def test_adapting_without_training_keeps_no_graph(method: str) -> None:
    learner = build(method)
    params = {name: tensor.requires_grad_() for name, tensor in make_params(learner).items()}
    adaptation = learner.adapt(params, make_classes()[0])
    assert not any(tensor.requires_grad for tensor in (*adaptation.state.values(), adaptation.loss))
    assert not learner.adapt(params, make_classes()[0], differentiable=True).loss.requires_grad


@every_method
def test_an_answer_is_one_product_of_the_points_and_the_weights(method: str) -> None:
    learner = build(method)
    params, (support, queries) = make_params(learner), make_classes()
    state = learner.adapt(params, support).state
    seen = see(learner, params, support, queries)
    expected = sharpness_of(params) * seen.queries @ state["class.weight"][0].numpy().T
    np.testing.assert_allclose(learner.predict(params, state, queries)[0].numpy(), expected, rtol=1e-9, atol=1e-9)
    assert state["class.weight"].shape == (1, 4, learner.backbone.feature_dim)


@every_method
def test_float32_is_answered_as_float64(method: str) -> None:
    check_float32(build(method))


@every_method
def test_an_example_of_weight_two_counts_as_two_examples(method: str) -> None:
    learner, generator = build(method), torch.Generator().manual_seed(3)
    points = torch.randn(1, 5, 4, generator=generator, dtype=torch.float64)
    members = torch.eye(3, dtype=torch.float64)[torch.tensor([0, 1, 2, 1, 0])][None]
    weights = torch.tensor([[1.0, 2.0, 1.0, 3.0, 1.0]], dtype=torch.float64)
    copies = torch.repeat_interleave(torch.arange(5), weights[0].long())
    params = make_params(learner)

    def head(index: Tensor, weights: Tensor) -> Tensor:
        problem = Problem(points[:, index], members[:, index], weights, torch.ones(1, 3, dtype=torch.bool), torch.zeros(1, 4))
        return learner.solve(params, problem, steps=8)[-1].mT @ problem.points

    torch.testing.assert_close(head(torch.arange(5), weights), head(copies, torch.ones_like(copies)[None].double()), rtol=1e-6, atol=1e-7)


class TestExplanations:
    @every_method
    def test_shares_add_up_to_the_score_of_the_predicted_class(self, method: str) -> None:
        learner = build(method)
        params, (support, queries) = make_params(learner), make_classes()
        state = learner.adapt(params, support).state
        shares = learner.explain(params, state, support, queries)[0]
        torch.testing.assert_close(shares.abs().sum(1), torch.ones(4, dtype=torch.float64))
        seen = see(learner, params, support, queries)
        kernel = torch.from_numpy(seen.queries @ seen.points.T)
        scores = (learner.predict(params, state, queries)[0] / sharpness_of(params)).amax(1)
        total = scores / shares.sum(1)  # of the absolute values, before they were made to sum to one
        coefficients = shares * total.unsqueeze(1) / kernel
        predicted = learner.predict(params, state, queries)[0].argmax(1)
        for first in range(4):  # queries of the same predicted class see the same coefficients
            for second in range(first):
                if predicted[first] == predicted[second]:
                    torch.testing.assert_close(coefficients[first], coefficients[second])
        torch.testing.assert_close((coefficients * kernel).sum(1), scores)

    @every_method
    def test_members_speak_for_their_class_and_the_others_against_it(self, method: str) -> None:
        learner = build(method)
        params, (support, queries) = make_params(learner), make_classes(noise=0.1)
        state = learner.adapt(params, support).state
        shares = learner.explain(params, state, support, queries)[0]
        seen = see(learner, params, support, queries)
        kernel = seen.queries @ seen.points.T
        predicted = learner.predict(params, state, queries)[0].argmax(1)
        for query, chosen in enumerate(predicted.tolist()):
            signs = np.where(seen.targets == chosen, 1, -1) * np.sign(kernel[query])
            assert (shares[query].numpy() * signs >= 0).all()

    @every_method
    def test_padding_gets_nothing_and_changes_nothing(self, method: str) -> None:
        learner = build(method)
        params, (support, queries) = make_params(learner), make_classes()
        both = stack_supports([make_classes((4, 4, 4, 4, 1), seed=5)[0], support])
        together = learner.explain(params, learner.adapt(params, both).state, both, queries.expand(2, -1, -1))[1]
        alone = learner.explain(params, learner.adapt(params, support).state, support, queries)[0]
        torch.testing.assert_close(together[:, :7], alone, rtol=1e-9, atol=1e-9)
        assert together[:, 7:].eq(0).all()


@every_method
def test_negative_steps_are_refused(method: str) -> None:
    learner = build(method)
    with pytest.raises(InvalidOptions, match="steps must be at least 0, got -1"):
        learner.adapt(make_params(learner), make_classes()[0], steps=-1)
