"""iMAML: the implicit gradient against unrolled steps, finite differences and a dense Hessian; and the memory it needs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from models.errors import InvalidOptions
from models.learner import Learner
from models.methods import build_learner
from models.methods.imaml import ImplicitMaml, solve_conjugate_gradients
from models.support import Params, Support, stack_supports
from tests.models.methods.tiny_tasks import (
    answer_by_hand,
    is_gradient_of_differences,
    make_params,
    make_task,
    objective_by_hand,
    outer_loss,
    query_loss_of,
)

# So many steps, and so strong a pull, that the inner loop is at rest in float64; as many iterations as there are weights and more.
AT_REST = {"inner_steps": 150, "inner_lr": 0.1, "proximal": 3.0, "cg_steps": 60}
CLASSES = {"method": "imaml", "kind": "classification", "input_shape": [3], "backbone": {"kind": "mlp", "hidden": [4]}, **AT_REST}
CURVE = {"method": "imaml", "kind": "regression", "input_shape": [1], "backbone": {"kind": "mlp", "hidden": [4]}, **AT_REST}
MEAN = {**CLASSES, "body_objective": "mean"}
ALL = pytest.mark.parametrize("spec", [CLASSES, MEAN, CURVE], ids=["classification", "body-mean", "regression"])
BOTH = pytest.mark.parametrize("spec", [CLASSES, CURVE], ids=["classification", "regression"])


def descend_by_hand(spec: dict[str, Any], params: Params, support: Support, steps: int) -> Params:
    """Steps on the proximal objective, all of them in the graph; every tensor moves at every step.

    For the mean over classes the body is held as many times stronger as there are ways, and steps as many times shorter.
    """
    slowness = {
        name: support.max_way if name.startswith("body.") and spec is MEAN else 1 for name in [*params, "class.weight", "class.bias"]
    }
    centres = {name: tensor for name, tensor in params.items() if name.startswith(("body.", "head."))}
    if support.max_way:
        centres |= {"class.weight": torch.zeros(support.max_way, 4).double(), "class.bias": torch.zeros(support.max_way).double()}
    weights = {name: tensor.clone() if tensor.requires_grad else tensor.requires_grad_() for name, tensor in centres.items()}
    for _ in range(steps):
        near = sum((slowness[name] * (weights[name] - centres[name]) ** 2).sum() for name in weights)
        objective = objective_by_hand(weights, support) + AT_REST["proximal"] / 2 * near
        gradients = torch.autograd.grad(objective, list(weights.values()), create_graph=True)
        weights = {name: weights[name] - AT_REST["inner_lr"] / slowness[name] * g for name, g in zip(weights, gradients, strict=True)}
    return weights


@ALL
def test_adapted_weights_are_those_of_the_proximal_objective(spec: dict[str, Any]) -> None:
    learner = build_learner({**spec, "inner_steps": 7})
    params = make_params(learner)
    tasks = [make_task(learner, shots, seed)[0] for seed, shots in enumerate([(1, 2, 1), (3, 1)])]
    state = learner.adapt(params, stack_supports(tasks)).state
    for lane, support in enumerate(tasks):
        for name, expected in descend_by_hand(spec, params, support, 7).items():
            ours = state[name][lane][: support.max_way] if name.startswith("class.") else state[name][lane]
            torch.testing.assert_close(ours, expected.detach(), rtol=1e-9, atol=1e-12)


@ALL
def test_the_implicit_gradient_is_that_of_all_the_steps_to_rest(spec: dict[str, Any]) -> None:
    """Two lanes of unequal size at once, so that conjugate gradients run lane by lane in one batch."""
    learner = build_learner(spec)
    params = make_params(learner, seed=5)
    tasks = [make_task(learner, shots, seed) for seed, shots in enumerate([(1, 2, 1), (2, 2, 2)])]
    adaptation = learner.adapt(params, stack_supports([task[0] for task in tasks]), differentiable=True)
    # Where ReLUs keep switching there is no rest, and the theorem says nothing.
    torch.testing.assert_close(adaptation.loss[:, -1], adaptation.loss[:, -2], rtol=0, atol=1e-13)
    state = adaptation.state
    outputs = learner.predict(params, state, torch.stack([task[1] for task in tasks]))
    ours = sum((outer_loss(outputs[lane], task[2]) for lane, task in enumerate(tasks)), torch.zeros(()))
    sharpness = params["answer.log_sharpness"].exp() if spec["kind"] == "classification" else 1.0
    theirs = torch.zeros(())
    for support, queries, answers in tasks:
        weights = descend_by_hand(spec, params, support, 150)
        theirs = theirs + outer_loss(sharpness * answer_by_hand(weights, queries), answers)
    mine, exact = (torch.autograd.grad(loss, list(params.values())) for loss in (ours, theirs))
    for name, one, other in zip(params, mine, exact, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-9, msg=name)


@ALL
def test_the_implicit_gradient_is_the_one_of_finite_differences(spec: dict[str, Any]) -> None:
    learner = build_learner({**spec, "inner_steps": 60, "backbone": {"kind": "mlp", "hidden": [2]}})
    params, task = make_params(learner, 6), make_task(learner, (1, 2, 1), 6)
    losses = learner.adapt(params, task[0]).loss[0]
    torch.testing.assert_close(losses[-1], losses[-2], rtol=0, atol=1e-12)  # at rest, see above
    assert is_gradient_of_differences(learner, params, task)


def test_without_conjugate_gradients_it_is_the_first_order_gradient_and_each_iteration_brings_it_nearer() -> None:
    task = make_task(build_learner(CURVE), (2, 2, 1), 1)
    gradients = {}
    for cg_steps in (0, 1, 4, 60):
        learner = build_learner({**CURVE, "cg_steps": cg_steps})
        params = make_params(learner, seed=2)
        found = torch.autograd.grad(query_loss_of(learner, params, task), list(params.values()))
        gradients[cg_steps] = torch.cat([gradient.flatten() for gradient in found])
    adapted = learner.adapt(params, task[0]).state
    leaves = {name: adapted[name].detach().requires_grad_() for name in params}
    loss = outer_loss(learner.predict(params, leaves, task[1].unsqueeze(0))[0], task[2])
    first_order = torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(leaves.values()))])
    torch.testing.assert_close(gradients[0], first_order, rtol=1e-9, atol=1e-12)
    errors = [(gradients[cg_steps] - gradients[60]).norm() for cg_steps in (0, 1, 4)]
    assert errors[0] > 2 * errors[1] > 4 * errors[2]


class TestConjugateGradients:
    """Each lane by itself, against a dense solver."""

    def solve(self, matrices: Tensor, target: Tensor, steps: int) -> Tensor:
        def apply(vectors: Any) -> list[Tensor]:
            image = (matrices @ torch.cat([v.flatten(1) for v in vectors], 1).unsqueeze(2)).squeeze(2)
            return [image[:, :4].view(-1, 2, 2), image[:, 4:]]

        pieces = solve_conjugate_gradients(apply, [target[:, :4].view(-1, 2, 2), target[:, 4:]], steps)
        return torch.cat([piece.flatten(1) for piece in pieces], 1)

    def draw(self) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(0)
        roots = torch.randn(3, 7, 7, generator=generator, dtype=torch.float64)
        return roots @ roots.mT + torch.eye(7).double(), torch.randn(3, 7, generator=generator, dtype=torch.float64)

    def test_as_many_iterations_as_dimensions_solve_it_and_more_do_no_harm(self) -> None:
        matrices, target = self.draw()
        for steps in (9, 100):
            torch.testing.assert_close(self.solve(matrices, target, steps), torch.linalg.solve(matrices, target), rtol=1e-7, atol=1e-9)

    def test_a_lane_is_solved_alike_alone(self) -> None:
        matrices, target = self.draw()
        together = self.solve(matrices, target, 3)
        for lane in range(3):
            torch.testing.assert_close(self.solve(matrices[[lane]], target[[lane]], 3)[0], together[lane], rtol=1e-12, atol=1e-12)

    def test_a_lane_without_positive_curvature_keeps_its_gradient_and_others_are_solved(self) -> None:
        matrices, target = self.draw()
        matrices[1] = -2 * torch.eye(7)
        solution = self.solve(matrices, target, 20)
        torch.testing.assert_close(solution[1], target[1])
        torch.testing.assert_close(solution[[0, 2]], torch.linalg.solve(matrices[[0, 2]], target[[0, 2]]), rtol=1e-7, atol=1e-9)

    def test_no_gradient_has_no_solution_but_zero(self) -> None:
        matrices, target = self.draw()
        assert self.solve(matrices, torch.zeros_like(target), 5).eq(0).all()


class HeldBytes:
    """The bytes that autograd graphs hold, now and at most, by the tensors they save."""

    def __init__(self) -> None:
        self.now = self.most = 0

    def pack(self, tensor: Tensor) -> Any:
        return _Held(self, tensor.detach())

    def unpack(self, held: Any) -> Any:
        return held.tensor


class _Held:
    def __init__(self, count: HeldBytes, tensor: Tensor) -> None:
        self.count, self.tensor, self.size = count, tensor, tensor.numel() * tensor.element_size()
        count.now += self.size
        count.most = max(count.most, count.now)

    def __del__(self) -> None:
        self.count.now -= self.size


def peak_of_graph(learner: Learner, steps: int) -> int:
    """Bytes at most while one task's meta-gradient is made."""
    params = make_params(learner)
    support, queries, answers = make_task(learner, (2, 2, 1), 1)
    held = HeldBytes()
    with torch.autograd.graph.saved_tensors_hooks(held.pack, held.unpack):
        state = learner.adapt(params, support, steps, differentiable=True).state
        torch.autograd.backward(outer_loss(learner.predict(params, state, queries.unsqueeze(0))[0], answers))
    return held.most


@BOTH
def test_memory_does_not_grow_with_the_inner_steps_as_it_does_for_maml(spec: dict[str, Any]) -> None:
    implicit = build_learner({**spec, "cg_steps": 5})
    few, many = (peak_of_graph(implicit, steps) for steps in (5, 50))
    assert few == many > 0
    unrolled = build_learner({key: spec[key] for key in ("kind", "input_shape", "backbone")} | {"method": "maml", "inner_lr": 0.01})
    few, many = (peak_of_graph(unrolled, steps) for steps in (5, 50))
    assert many > 5 * few


def test_a_differentiable_state_has_the_same_values() -> None:
    learner = build_learner({**CLASSES, "inner_steps": 3})
    params = make_params(learner)
    support, _, _ = make_task(learner, (1, 2), 0)
    plain, tied = (learner.adapt(params, support, differentiable=wanted).state for wanted in (False, True))
    assert all(torch.equal(plain[name], tied[name]) for name in plain)
    assert all(tied[name].requires_grad for name in tied if name != "class.mask")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"proximal": 0.0}, "proximal > 0 and cg_steps >= 0"),
        ({"proximal": float("inf")}, "proximal > 0 and cg_steps >= 0"),
        ({"cg_steps": -1}, "proximal > 0 and cg_steps >= 0"),
        ({"first_order": True}, "imaml has first_order = false"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: dict[str, Any], words: str) -> None:
    assert isinstance(build_learner(CLASSES), ImplicitMaml)
    with pytest.raises(InvalidOptions, match=words):
        build_learner({**CLASSES, **options})
