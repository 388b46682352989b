"""Prototypical networks against the definition in the paper."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from models.methods import build_learner, protonet
from models.support import make_support

SPEC = {"method": "protonet", "kind": "classification", "input_shape": [3], "backbone": {"kind": "mlp", "hidden": [8, 4]}}


def test_prototypes_are_class_means_and_logits_are_negative_squared_distances() -> None:
    learner = build_learner(SPEC)
    generator = torch.Generator().manual_seed(0)
    params = learner.init(generator)
    inputs, queries = torch.rand(6, 3, generator=generator), torch.rand(4, 3, generator=generator)
    targets = torch.tensor([1, 0, 1, 2, 1, 0])
    state = learner.adapt(params, make_support(inputs, targets, 3)).state

    features = learner.backbone.features(params, inputs[None])[0]  # type: ignore[attr-defined]
    means = torch.stack([features[targets == c].mean(0) for c in range(3)])
    torch.testing.assert_close(state["class.prototypes"][0], means)

    embedded = learner.backbone.features(params, queries[None])[0]  # type: ignore[attr-defined]
    logits = learner.predict(params, state, queries[None])[0]
    torch.testing.assert_close(logits, -(torch.cdist(embedded, means) ** 2), rtol=1e-4, atol=1e-5)


def test_the_embedding_gets_a_gradient_through_prototypes_and_queries() -> None:
    learner = build_learner(SPEC)
    generator = torch.Generator().manual_seed(0)
    params = {name: tensor.requires_grad_() for name, tensor in learner.init(generator).items()}
    support = make_support(torch.rand(3, 3, generator=generator), torch.arange(3), 3)
    state = learner.adapt(params, support, differentiable=True).state
    assert state["class.prototypes"].requires_grad
    loss = learner.predict(params, state, torch.rand(1, 2, 3, generator=generator)).log_softmax(-1)[..., 0].sum()
    assert all(gradient.abs().sum() > 0 for gradient in torch.autograd.grad(loss, list(params.values())))


def test_adapting_without_training_keeps_no_graph() -> None:
    learner = build_learner(SPEC)
    params = {name: tensor.requires_grad_() for name, tensor in learner.init(torch.Generator().manual_seed(0)).items()}
    adaptation = learner.adapt(params, make_support(torch.rand(2, 3), torch.arange(2), 2))
    assert not any(tensor.requires_grad for tensor in adaptation.state.values())


class LargestResult(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """The number of elements of the largest tensor that any operator made."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, list | tuple) else [result]:
            self.numel = max(self.numel, tensor.numel())
        return result


def test_many_points_against_many_centres_take_blocks_of_memory_and_give_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    points, centres = torch.rand(2, 50, 16, generator=generator), torch.rand(2, 30, 16, generator=generator)
    at_once = protonet.squared_distances(points, centres)
    monkeypatch.setattr(protonet, "_MAX_DIFFERENCES", 3 * centres.numel())
    with LargestResult() as largest:
        in_blocks = protonet.squared_distances(points, centres)
    assert torch.equal(in_blocks, at_once)
    assert largest.numel <= max(3 * centres.numel(), at_once.numel())
