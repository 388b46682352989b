"""How others take a second-order meta-gradient: each peer is a function of a problem that returns what to time.

A contender returns the gradient in the body's weights and in the answer's sharpness, under our names. The head starts at zeros and is
not meta-learned, so its gradient is left. Tasks are differentiated one at a time where a library works task by task: as they all
advise, since the graphs of all tasks together would not fit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call, grad, vmap

from benchmarks.few_shot import Problem
from benchmarks.plain_conv4 import PlainConv4, rename_body
from models.methods.inner_loop import LOG_SHARPNESS
from models.support import Params

MetaGradient = Callable[[], Params]
Episode = tuple[Tensor, Tensor, Tensor, Tensor]


def plain_loop(problem: Problem) -> MetaGradient:
    """The functional loop everybody writes: `create_graph=True`, new weights by hand, and a backward per task."""
    model, log_sharpness = _start(problem)
    meta = dict(model.named_parameters())

    def descend(inputs: Tensor, targets: Tensor) -> Params:
        weights: Params = dict(meta)
        for _ in range(problem.steps):
            loss = F.cross_entropy(functional_call(model, weights, (inputs,)), targets)
            gradients = torch.autograd.grad(loss, list(weights.values()), create_graph=True)
            weights = {name: weights[name] - problem.lr * gradient for name, gradient in zip(weights, gradients, strict=True)}
        return weights

    def differentiate() -> Params:
        _forget(model, log_sharpness)
        for inputs, targets, queries, answers in _episodes(problem):
            logits = functional_call(model, descend(inputs, targets), (queries,))
            torch.autograd.backward(_judge(logits, log_sharpness, answers) / len(problem.inputs))
        return _collect(model, log_sharpness)

    return differentiate


def vmapped(problem: Problem) -> MetaGradient:
    """`torch.func.grad` of the vmapped functional loop."""
    model, log_sharpness = _start(problem)
    start = {name: parameter.detach() for name, parameter in model.named_parameters()}

    def support_loss(weights: Params, inputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(functional_call(model, weights, (inputs,)), targets)

    def query_loss(meta: Params, sharpness: Tensor, inputs: Tensor, targets: Tensor, queries: Tensor, answers: Tensor) -> Tensor:
        weights = meta
        for _ in range(problem.steps):
            gradients = grad(support_loss)(weights, inputs, targets)
            weights = {name: tensor - problem.lr * gradients[name] for name, tensor in weights.items()}
        return _judge(functional_call(model, weights, (queries,)), sharpness, answers)

    def mean_loss(meta: Params, sharpness: Tensor) -> Tensor:
        episodes = problem.episodes
        each = vmap(query_loss, in_dims=(None, None, 0, 0, 0, 0))
        losses: Tensor = each(meta, sharpness, problem.inputs, problem.targets, episodes.query_inputs, episodes.query_targets)
        return losses.mean()

    def differentiate() -> Params:
        gradients, sharpness = grad(mean_loss, argnums=(0, 1))(start, log_sharpness.detach())
        return {**rename_body(model, gradients), LOG_SHARPNESS: sharpness}

    return differentiate


def higher(problem: Problem) -> MetaGradient:
    """higher's `innerloop_ctx` with its graph, and a backward per task, as in its MAML example."""
    import higher as library

    model, log_sharpness = _start(problem)
    optimizer = torch.optim.SGD(model.parameters(), lr=problem.lr)

    def differentiate() -> Params:
        _forget(model, log_sharpness)
        for inputs, targets, queries, answers in _episodes(problem):
            with library.innerloop_ctx(model, optimizer, copy_initial_weights=False) as (own, steps):
                for _ in range(problem.steps):
                    steps.step(F.cross_entropy(own(inputs), targets))
                torch.autograd.backward(_judge(own(queries), log_sharpness, answers) / len(problem.inputs))
        return _collect(model, log_sharpness)

    return differentiate


def torchopt(problem: Problem) -> MetaGradient:
    """torchopt's `MetaSGD`, put back to the start after each task, as in its few-shot example."""
    import torchopt as library

    model, log_sharpness = _start(problem)
    start, meta = library.extract_state_dict(model, by="reference"), dict(model.named_parameters())

    def differentiate() -> Params:
        for tensor in (*meta.values(), log_sharpness):
            tensor.grad = None
        for inputs, targets, queries, answers in _episodes(problem):
            optimizer = library.MetaSGD(model, lr=problem.lr)
            for _ in range(problem.steps):
                optimizer.step(model.loss(inputs, targets))
            torch.autograd.backward(_judge(model(queries), log_sharpness, answers) / len(problem.inputs))
            library.recover_state_dict(model, start)
        return _collect(model, log_sharpness)

    return differentiate


def parallel_metalearn(problem: Problem) -> MetaGradient:
    """The training step of `metalearn`, vmapped over tasks, with an outer optimizer whose learning rate is zero."""
    from benchmarks.metalearn_peer import make_algorithm

    algorithm, episodes = make_algorithm(problem, learn_sharpness=True), problem.episodes
    batch = (problem.inputs, {"labels": problem.targets}, episodes.query_inputs, {"labels": episodes.query_targets})

    def differentiate() -> Params:
        algorithm.step(iter([batch]), training=True)
        return _collect(algorithm.model.backbone, algorithm.query_loss_fn.log_sharpness)

    return differentiate


def _start(problem: Problem) -> tuple[PlainConv4, Tensor]:
    """The plain network and the logarithm of the answers' sharpness, both to be differentiated."""
    return problem.make_plain(), problem.params[LOG_SHARPNESS].detach().clone().requires_grad_()


def _episodes(problem: Problem) -> Iterator[Episode]:
    episodes = problem.episodes
    return zip(problem.inputs, problem.targets, episodes.query_inputs, episodes.query_targets, strict=True)


def _judge(logits: Tensor, log_sharpness: Tensor, answers: Tensor) -> Tensor:
    return F.cross_entropy(logits * log_sharpness.exp(), answers)


def _forget(model: PlainConv4, log_sharpness: Tensor) -> None:
    model.zero_grad()
    log_sharpness.grad = None


def _collect(model: PlainConv4, log_sharpness: Any) -> Params:
    gradients = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    return {**rename_body(model, gradients), LOG_SHARPNESS: log_sharpness.grad}


PEERS: dict[str, Callable[[Problem], MetaGradient]] = {
    "plain loop": plain_loop,
    "torch.func.vmap": vmapped,
    "higher": higher,
    "torchopt": torchopt,
    "parallel-metalearn": parallel_metalearn,
}
