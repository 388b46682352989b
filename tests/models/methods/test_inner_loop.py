"""What the gradient-based family shares: the body's objective, the points of an inner loop, explanations; and golden outputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from models.backbones.mlp import Mlp
from models.episodes import EpisodeBatch
from models.errors import InvalidOptions
from models.learner import Learner
from models.methods import build_learner
from models.methods.inner_loop import GradientLearner
from models.support import Params, State, make_support, stack_supports
from tests.models.methods.tiny_tasks import make_params, make_task, query_loss_of

CLASSES = {"kind": "classification", "input_shape": [3], "backbone": {"kind": "mlp", "hidden": [5]}}
CURVE = {"kind": "regression", "input_shape": [1], "backbone": {"kind": "mlp", "hidden": [6]}}
FAMILY = ["anil", "boil", "fomaml", "imaml", "learned-optimizer", "maml", "mamlpp", "metasgd", "protomaml", "reptile"]


def build(method: str, spec: Mapping[str, Any], **options: Any) -> GradientLearner:
    learner = build_learner({"method": method, **spec, **options})
    assert isinstance(learner, GradientLearner)
    return learner


class TestBodyObjective:
    """`mean` divides the body's gradient by the ways, and nothing else."""

    @pytest.mark.parametrize("shots", [(1, 2), (1, 1, 1, 1, 1)])
    def test_the_body_moves_by_the_mean_over_classes_and_the_head_by_the_sum(self, shots: tuple[int, ...]) -> None:
        params = make_params(build("protomaml", CLASSES))
        support, _, _ = make_task(build("protomaml", CLASSES), shots, seed=1)
        moves = {}
        for objective in ("sum", "mean"):
            learner = build("protomaml", CLASSES, inner_lr=0.01, body_objective=objective)
            before, after = (learner.adapt(params, support, steps=steps).state for steps in (0, 1))
            moves[objective] = {name: after[name] - before[name] for name in after if name != "class.mask"}
        for name, move in moves["sum"].items():
            assert move.abs().max() > 1e-6
            torch.testing.assert_close(moves["mean"][name], move / len(shots) if name.startswith("body.") else move)

    def test_another_word_is_refused(self) -> None:
        with pytest.raises(InvalidOptions, match="body_objective must be sum or mean"):
            build("maml", CLASSES, body_objective="median")

    def test_regression_has_no_classes_to_average(self) -> None:
        with pytest.raises(InvalidOptions, match="no sum over classes"):
            build("maml", CURVE, body_objective="mean")


@pytest.mark.parametrize("method", FAMILY)
def test_the_points_of_an_inner_loop_are_the_states_of_fewer_steps(method: str) -> None:
    learner = build(method, CLASSES, inner_lr=0.01, inner_steps=3)
    params = make_params(learner)
    support = stack_supports([make_task(learner, (1, 2, 1), 0)[0], make_task(learner, (2, 1), 1)[0]])
    points = list(learner.descend(params, support, 3))
    whole = learner.adapt(params, support)
    assert len(points) == 4
    for step, point in enumerate(points):
        state = learner.adapt(params, support, steps=step).state
        laned = learner.to_state(params, point.weights, support.lanes)
        assert laned.keys() == state.keys()
        assert all(torch.equal(laned[name], state[name]) for name in state)
        assert torch.equal(point.judge()[0], whole.loss[:, step])


@pytest.mark.parametrize("method", FAMILY)
def test_adapting_without_training_keeps_no_graph(method: str) -> None:
    learner = build(method, CLASSES)
    adaptation = learner.adapt(make_params(learner), make_task(learner, (1, 2), 0)[0])
    assert not any(tensor.requires_grad for tensor in [*adaptation.state.values(), adaptation.loss])


@pytest.mark.parametrize("method", [method for method in FAMILY if method != "reptile"])  # which has no queries
def test_meta_training_does_not_look_once_more_for_the_end_of_the_curve(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loss and its gradient are those of an adaptation, by one look less where the last step moved the body."""
    learner = build(method, CLASSES, inner_lr=0.01, inner_steps=3)
    params, (support, queries, answers) = make_params(learner), make_task(learner, (1, 2, 1), 0)
    looks = count_looks(monkeypatch)
    trained, _ = learner.meta_loss(params, EpisodeBatch(support, queries.unsqueeze(0), answers.unsqueeze(0)), 1.0)
    looked = len(looks)
    adapted = query_loss_of(learner, params, (support, queries, answers))
    assert len(looks) - looked == looked + (method not in ("anil", "imaml"))  # imaml's steps are no part of its graph
    gradients = (torch.autograd.grad(loss, list(params.values()), allow_unused=True) for loss in (trained, adapted))
    for ours, wanted in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, wanted)


def count_looks(monkeypatch: pytest.MonkeyPatch) -> list[None]:
    """Grows by one with every pass through the body."""
    looks, features = list[None](), Mlp.features

    def count(self: Mlp, params: Params, inputs: Tensor) -> Tensor:
        looks.append(None)
        return features(self, params, inputs)

    monkeypatch.setattr(Mlp, "features", count)
    return looks


class TestExplain:
    """Weights against gradients of the last layer as autograd takes them, one example at a time."""

    @pytest.mark.parametrize("method", FAMILY)
    def test_of_classes_are_inner_products_of_gradients(self, method: str) -> None:
        learner = build(method, CLASSES, inner_lr=0.01)
        params = make_params(learner)
        support, queries, _ = make_task(learner, (1, 3, 2), seed=6)
        state = learner.adapt(params, support).state
        weights = learner.explain(params, state, support, queries.unsqueeze(0))[0].detach()
        counts = torch.bincount(support.targets[0])
        for query, row in zip(queries, weights, strict=True):
            answer = learner.predict(params, state, query[None, None])[0, 0].argmax()
            wanted = last_layer_gradient(learner, params, state, query, answer)
            similar = torch.stack([
                last_layer_gradient(learner, params, state, example, target) @ wanted / counts[target]
                for example, target in zip(support.inputs[0], support.targets[0], strict=True)
            ])  # fmt: skip
            torch.testing.assert_close(row, similar / similar.abs().sum())
            assert (row[support.targets[0] == answer] > 0).all()

    @pytest.mark.parametrize("method", [method for method in FAMILY if method != "protomaml"])
    def test_of_values_are_inner_products_of_gradients_at_the_start(self, method: str) -> None:
        learner = build(method, CURVE, inner_lr=0.05)
        params = make_params(learner)
        support, queries, _ = make_task(learner, (1, 3, 2), seed=6)
        start, state = learner.adapt(params, support, steps=0).state, learner.adapt(params, support).state
        weights = learner.explain(params, state, support, queries.unsqueeze(0))[0].detach()
        for query, row in zip(queries, weights, strict=True):
            answer = learner.predict(params, state, query[None, None])[0, 0]
            wanted = last_layer_gradient(learner, params, start, query, answer.detach())
            similar = torch.stack([
                last_layer_gradient(learner, params, start, example, target) @ wanted
                for example, target in zip(support.inputs[0], support.targets[0], strict=True)
            ])  # fmt: skip
            torch.testing.assert_close(row, similar / similar.abs().sum())

    def test_they_ignore_padding_and_company(self) -> None:
        learner = build("maml", CLASSES)
        params = make_params(learner)
        (mine, queries, _), (other, others, _) = make_task(learner, (1, 2), 0), make_task(learner, (3, 1, 2), 1)
        batch = stack_supports([mine, other])
        together = learner.explain(params, learner.adapt(params, batch).state, batch, torch.stack([queries, others[:2]]))
        alone = learner.explain(params, learner.adapt(params, mine).state, mine, queries.unsqueeze(0))
        torch.testing.assert_close(together[:1, :, :3], alone, rtol=1e-9, atol=1e-12)
        assert together[0, :, 3:].eq(0).all()
        torch.testing.assert_close(together.abs().sum(2), torch.ones(2, 2, dtype=torch.float64))

    def test_they_are_finite_where_every_answer_is_certain(self) -> None:
        learner = build("maml", CLASSES, inner_steps=1)
        params = {name: tensor.detach().float() for name, tensor in make_params(learner).items()}
        support = make_support(torch.eye(3), torch.arange(3), 3)
        state = learner.adapt(params, support).state
        state["class.weight"] *= 1e4  # softmax gives exact ones and zeros in float32
        weights = learner.explain(params, state, support, torch.eye(3).unsqueeze(0))
        torch.testing.assert_close(weights.abs().sum(2), torch.ones(1, 3))

    def test_where_nothing_pulls_the_weights_are_even(self) -> None:
        learner = build("maml", CURVE)
        params = make_params(learner)
        support, queries, _ = make_task(learner, (2, 2), 0)
        state = learner.adapt(params, support, steps=0).state  # the answer is the initial one: nothing drove it
        torch.testing.assert_close(
            learner.explain(params, state, support, queries.unsqueeze(0)), torch.full((1, 2, 4), 0.25, dtype=torch.float64)
        )


def last_layer_gradient(learner: GradientLearner, params: Params, state: State, point: Tensor, target: Tensor) -> Tensor:
    """The gradient of one example's loss in the head's weight and bias, flat, by autograd."""
    head = "class" if "class.weight" in state else "head"
    names = [f"{head}.weight", f"{head}.bias"]
    leaves = {name: (state[name] if name in state else params[name].unsqueeze(0)).detach().requires_grad_() for name in names}
    output = learner.outputs(params, {**state, **leaves}, point[None, None])[0, 0]
    loss = F.cross_entropy(output, target) if target.dim() == 0 else (output - target).square().sum() / 2
    return torch.cat([gradient.flatten() for gradient in torch.autograd.grad(loss, list(leaves.values()))])


def golden_outputs(learner: Learner) -> Tensor:
    """Logits (2, 3) or values (3, 1) for a seeded task whose classes stand apart: corners of a cube and their surroundings."""
    params = {name: tensor.detach() for name, tensor in make_params(learner, seed=11).items()}
    generator = torch.Generator().manual_seed(12)
    if learner.kind == "regression":
        inputs = torch.linspace(-1, 1, 6, dtype=torch.float64).unsqueeze(1)
        support, queries = make_support(inputs, inputs.sin()), inputs[1:4] + 0.1
    else:
        inputs = torch.eye(3, dtype=torch.float64)[[0, 1, 2, 1, 0]] + 0.1 * torch.rand(5, 3, generator=generator, dtype=torch.float64)
        support, queries = make_support(inputs, torch.tensor([0, 1, 2, 1, 0]), 3), torch.eye(3, dtype=torch.float64)[:2]
    return learner.predict(params, learner.adapt(params, support).state, queries.unsqueeze(0))[0]


# Printed by golden_outputs(build(method, spec, inner_lr=0.02)).tolist(); print them again when a formula changes by intent.
GOLDEN: dict[str, tuple[list[list[float]], list[list[float]] | None]] = {
    "anil": (
        [[-0.092911543, 0.772754957, -0.679843414], [-1.037598435, 3.642235489, -2.604637054]],
        [[-0.115830388], [-0.032549919], [0.193391726]],
    ),
    "boil": (
        [[18.119242016, -90.136938126, -1.006803439], [76.36522853, 170.085491573, 5.855218939]],
        [[-0.084972504], [-0.025253977], [0.194904989]],
    ),
    "fomaml": (
        [[-0.092962893, 0.773862948, -0.680900055], [-1.039507551, 3.648503362, -2.608995811]],
        [[-0.129316045], [-0.043177471], [0.193899214]],
    ),
    "imaml": (
        [[0.703849345, 1.271193661, -1.975043006], [-2.18048608, 10.855767584, -8.675281504]],
        [[-0.297267808], [-0.123168117], [0.203031302]],
    ),
    "learned-optimizer": (
        [[-0.105171593, 1.10510168, -0.999930087], [-1.514581222, 5.395037586, -3.880456364]],
        [[-0.160352875], [-0.058448108], [0.194004261]],
    ),
    "maml": (
        [[-0.092962893, 0.773862948, -0.680900055], [-1.039507551, 3.648503362, -2.608995811]],
        [[-0.129316045], [-0.043177471], [0.193899214]],
    ),
    "mamlpp": (
        [[-0.099922136, 1.043766308, -0.943844172], [-1.431156264, 5.093445763, -3.662289499]],
        [[-0.155310211], [-0.055954043], [0.194029823]],
    ),
    "metasgd": (
        [[-0.092962892, 0.773862933, -0.680900041], [-1.03950753, 3.648503287, -2.608995757]],
        [[-0.129316044], [-0.04317747], [0.193899214]],
    ),
    "protomaml": (
        [[18.178311126, -90.150383843, -1.070426021], [76.529378557, 170.078923531, 5.688664205]],
        None,
    ),
    "reptile": (
        [[-0.00434585, 0.140334167, -0.135988317], [-0.198952753, 0.740604852, -0.541652099]],
        [[-0.201557941], [-0.078500909], [0.194975796]],
    ),
}


@pytest.mark.parametrize("method", FAMILY)
def test_golden_outputs(method: str) -> None:
    classes, curve = GOLDEN[method]
    for spec, expected in ((CLASSES, classes), (CURVE, curve)):
        if expected is not None:
            outputs = golden_outputs(build(method, spec, inner_lr=0.02))
            torch.testing.assert_close(outputs, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-7)
