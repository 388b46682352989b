"""How others adapt a batch of tasks: each peer is a function of a problem that returns what to time.

A contender returns the adapted weights of all tasks, as a list of one dictionary each or as one dictionary with a lane axis; nobody
is charged for stacking. Libraries are used as their own examples do at test time, and are imported when asked for.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from benchmarks.few_shot import Problem
from benchmarks.plain_conv4 import PlainConv4
from models.support import Params

Adapt = Callable[[], list[Params] | Params]

VMAP_CHUNK = {"cpu": 16, "cuda": 64}
"""Lanes in one vmap. On a CPU more are no faster (strided Conv-4 64, 1 shot: 9.2 ms a lane of 16, 9.6 of 64; two cores of an AMD EPYC,
2026-11-21); on any device 256 of 25 pooled examples need tens of gigabytes."""
VMAPPED = ("torch.func.vmap", "parallel-metalearn")
"""Peers that take so many lanes at once; the others take one after the other."""


def plain_loop(problem: Problem) -> Adapt:
    """The loop everybody writes: a deep copy, an SGD and a backward per step, one task after the other."""
    model = problem.make_plain()

    def adapt() -> list[Params]:
        return [descend(copy.deepcopy(model), inputs, targets) for inputs, targets in problem.tasks]

    def descend(own: PlainConv4, inputs: Tensor, targets: Tensor) -> Params:
        optimizer = torch.optim.SGD(own.parameters(), lr=problem.lr)
        for _ in range(problem.steps):
            optimizer.zero_grad()
            torch.autograd.backward(own.loss(inputs, targets))
            optimizer.step()
        return dict(own.named_parameters())

    return adapt


def vmapped(problem: Problem) -> Adapt:
    """The functional loop, vmapped over tasks as torch's documentation does with ensembles."""
    model = problem.make_plain()
    start = {name: parameter.detach() for name, parameter in model.named_parameters()}

    def descend(inputs: Tensor, targets: Tensor) -> Params:
        weights = start
        for _ in range(problem.steps):
            gradients = grad(loss)(weights, inputs, targets)
            weights = {name: tensor - problem.lr * gradients[name] for name, tensor in weights.items()}
        return weights

    def loss(weights: Params, inputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(functional_call(model, weights, (inputs,)), targets)

    descend_all = vmap(descend, chunk_size=VMAP_CHUNK[problem.inputs.device.type])
    return lambda: descend_all(problem.inputs, problem.targets)


def higher(problem: Problem) -> Adapt:
    """higher's `innerloop_ctx`, without a graph through the steps."""
    import higher as library

    model = problem.make_plain()
    names = [name for name, _ in model.named_parameters()]
    optimizer = torch.optim.SGD(model.parameters(), lr=problem.lr)

    def descend(inputs: Tensor, targets: Tensor) -> Params:
        with library.innerloop_ctx(model, optimizer, track_higher_grads=False) as (own, steps):
            for _ in range(problem.steps):
                steps.step(F.cross_entropy(own(inputs), targets))
            return dict(zip(names, own.parameters(), strict=True))

    return lambda: [descend(inputs, targets) for inputs, targets in problem.tasks]


def torchopt(problem: Problem) -> Adapt:
    """torchopt's `MetaSGD`, put back to the start after each task, as in its few-shot example. It always keeps a graph."""
    import torchopt as library

    model = problem.make_plain()
    start = library.extract_state_dict(model, by="reference")

    def descend(inputs: Tensor, targets: Tensor) -> Params:
        optimizer = library.MetaSGD(model, lr=problem.lr)
        for _ in range(problem.steps):
            optimizer.step(model.loss(inputs, targets))
        adapted = {name: tensor.detach() for name, tensor in model.named_parameters()}
        library.recover_state_dict(model, start)
        return adapted

    return lambda: [descend(inputs, targets) for inputs, targets in problem.tasks]


def parallel_metalearn(problem: Problem) -> Adapt:
    """The vmapped adaptation of `metalearn`: its own inner step and inner optimizer, without the queries that its `step` judges."""
    from benchmarks.metalearn_peer import make_algorithm

    algorithm = make_algorithm(problem, learn_sharpness=False)
    start = {name: tensor.detach() for name, tensor in algorithm.model.get_fast_weights().items()}

    def descend(inputs: Tensor, targets: Tensor) -> Params:
        weights: Params = start
        state = algorithm.inner_optimizer.init_state(weights)
        for step in range(problem.steps):
            gradients, _ = algorithm.inner_step_fn(weights, {}, {}, inputs, {"labels": targets}, inner_step=step, training=True)
            optimizer = algorithm.inner_optimizer
            weights, state = optimizer(fast_weights=weights, gradients=gradients, state=state, step=step, training=False)
        return {name.removeprefix("backbone."): tensor for name, tensor in weights.items()}

    descend_all = vmap(descend, randomness="different", chunk_size=min(VMAP_CHUNK[problem.inputs.device.type], algorithm.chunk_size))
    return lambda: descend_all(problem.inputs, problem.targets)


def plain_head_loop(problem: Problem) -> Adapt:
    """ANIL in a loop: the features of a task once, then SGD on a copy of the head."""
    model = problem.make_plain()

    def descend(inputs: Tensor, targets: Tensor) -> Params:
        with torch.no_grad():
            features = model.features(inputs) * model.feature_scale
        head: nn.Linear = copy.deepcopy(model.head)
        optimizer = torch.optim.SGD(head.parameters(), lr=problem.lr)
        for _ in range(problem.steps):
            optimizer.zero_grad()
            torch.autograd.backward(F.cross_entropy(head(features) * model.head_scale, targets))
            optimizer.step()
        return {f"head.{name}": tensor for name, tensor in head.named_parameters()}

    return lambda: [descend(inputs, targets) for inputs, targets in problem.tasks]


def vmapped_head(problem: Problem) -> Adapt:
    """ANIL vmapped over tasks; the body has shared weights, so its convolutions are large ones."""
    model = problem.make_plain()
    start = {name: tensor.detach() for name, tensor in model.head.named_parameters()}

    def descend(inputs: Tensor, targets: Tensor) -> Params:
        features = model.features(inputs) * model.feature_scale
        weights = start
        for _ in range(problem.steps):
            gradients = grad(loss)(weights, features, targets)
            weights = {name: tensor - problem.lr * gradients[name] for name, tensor in weights.items()}
        return {f"head.{name}": tensor for name, tensor in weights.items()}

    def loss(weights: Params, features: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(functional_call(model.head, weights, (features,)) * model.head_scale, targets)

    descend_all = torch.no_grad()(vmap(descend, chunk_size=VMAP_CHUNK[problem.inputs.device.type]))
    return lambda: descend_all(problem.inputs, problem.targets)


def plain_prototypes(problem: Problem) -> Adapt:
    """Class means, one task after the other."""
    model = problem.make_plain()

    @torch.no_grad()
    def average(inputs: Tensor, targets: Tensor) -> Params:
        features = model.features(inputs)
        return {"class.prototypes": torch.stack([features[targets == each].mean(0) for each in range(problem.n_way)])}

    return lambda: [average(inputs, targets) for inputs, targets in problem.tasks]


def plain_ridge(problem: Problem) -> Adapt:
    """Ridge regression of one task after the other, in the space that our learner poses it in (`models.methods.head_space`)."""
    model, params = problem.make_plain(), problem.params
    prior, penalty = params["head.log_centre_weight"].exp(), params["head.log_penalty"].double().exp()

    @torch.no_grad()
    def solve(inputs: Tensor, targets: Tensor) -> Params:
        features = model.features(inputs)
        means = torch.stack([features[targets == each].mean(0) for each in range(problem.n_way)])
        centre = (means.sum(0) + prior * params["head.centre"]) / (problem.n_way + prior)
        points = F.normalize(features - centre, dim=1).double()
        goals = F.one_hot(targets, problem.n_way).double() - 1 / problem.n_way
        kernel = points @ points.T + penalty * torch.eye(len(points), dtype=points.dtype, device=points.device)
        return {"class.weight": (torch.linalg.solve(kernel, goals).T @ points).to(features.dtype)}

    return lambda: [solve(inputs, targets) for inputs, targets in problem.tasks]


PEERS: dict[str, dict[str, Callable[[Problem], Any]]] = {
    "maml": {
        "plain loop": plain_loop,
        "torch.func.vmap": vmapped,
        "higher": higher,
        "torchopt": torchopt,
        "parallel-metalearn": parallel_metalearn,
    },
    "anil": {"plain loop": plain_head_loop, "torch.func.vmap": vmapped_head},
    "protonet": {"plain loop": plain_prototypes},
    "ridge": {"plain loop": plain_ridge},
}
