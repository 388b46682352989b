"""iMAML: the outer gradient from where the inner loop ends, not from the way it took (Rajeswaran et al. 2019, arXiv:1909.04630).

The inner loop descends on loss(w) + proximal/2 |w - w0|^2. Where it is at rest, the implicit function theorem gives the derivative of
w in the initial weights w0 without the steps between: (I + H / proximal)^-1, with H the Hessian of the support loss at w. The outer
gradient applies it by conjugate gradients, whose products with H are derivatives of one evaluation of the inner gradient. So the memory
of meta-training does not grow with the inner steps, and any optimizer that comes to rest may take them.

The class head starts at zeros and is not meta-learned; so zero is its centre, and of the solution for head and body together only the
body's part goes on to the meta-parameters. With the body's objective a mean over the classes, the body rests where it would under the
sum and a pull as many times stronger as there are ways, and the solution reckons with that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from models.episodes.episode import EpisodeBatch
from models.errors import InvalidOptions
from models.learner import BODY, Adaptation
from models.methods.class_head import CLASS_MASK
from models.methods.inner_loop import GradientLearner
from models.methods.objectives import adapted_loss
from models.support import Params, Support

Vectors = Sequence[Tensor]
"""A vector for each lane, in pieces (lanes, ...): one piece for each adapted tensor."""


@dataclass(frozen=True)
class ImplicitMaml(GradientLearner):
    """Gradient-based adaptation of all weights, held near the initial ones, and the implicit outer gradient.

    proximal: lambda of the paper; the authors' Omniglot command has 2, with 16 steps at a rate of 0.1 and 5 steps of conjugate gradients.
    cg_steps: iterations of conjugate gradients; with 0 the outer gradient is that of first-order MAML.
    """

    inner_steps: int = 16
    proximal: float = 2.0
    cg_steps: int = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.proximal < float("inf") or self.cg_steps < 0:
            raise InvalidOptions(f"imaml needs proximal > 0 and cg_steps >= 0, got {self.proximal} and {self.cg_steps}")
        if self.first_order:
            raise InvalidOptions(
                "imaml has first_order = false, as it takes no derivative of its steps; with cg_steps = 0 it is first-order"
            )

    def pull(self, params: Params, name: str, tensor: Tensor) -> Tensor | None:
        return self.proximal * (tensor - params[name] if name in params else tensor)

    def adapt(self, params: Params, support: Support, steps: int | None = None, *, differentiable: bool = False) -> Adaptation:
        """With `differentiable` the state's derivative is the implicit one, as if the inner loop had come to rest."""
        adaptation = super().adapt(params, support, steps)
        if not differentiable:
            return adaptation
        # Tensors with a centre first, in the order of the centres that the gradient goes to.
        centred = [name for name in adaptation.state if name in params]
        names = [*centred, *(name for name in adaptation.state if name not in params and name != CLASS_MASK)]

        def solve(weights: Vectors, gradients: Vectors) -> Vectors:
            return self._solve(params, support, dict(zip(names, weights, strict=True)), gradients)

        adapted = [adaptation.state[name] for name in names]
        tied = ImplicitGradient.apply(solve, adapted, *(params[name] for name in centred))  # type: ignore[no-untyped-call]
        return Adaptation({**adaptation.state, **dict(zip(names, tied, strict=True))}, adaptation.loss, adaptation.accuracy)

    def meta_loss(self, params: Params, batch: EpisodeBatch, progress: float) -> tuple[Tensor, float]:
        """Of the adaptation itself, whose derivative is not that of its steps."""
        return adapted_loss(self, params, batch)

    def _solve(self, params: Params, support: Support, weights: Params, gradients: Vectors) -> Vectors:
        """The gradients in the centres of `weights` (lanes, ...), given those in the weights.

        A tensor held by p has the derivative p (H + P)^-1 in its centre. With s^2 = proximal / p that is s^-1 (I + s H s / proximal)^-1 s,
        which is symmetric inside, as conjugate gradients want it.
        """
        scales = [self._slacken(name, tensor, support) for name, tensor in weights.items()]
        bend = self._make_curvature(params, support, weights)

        def apply(vectors: Vectors) -> Vectors:
            images = bend([scale * vector for scale, vector in zip(scales, vectors, strict=True)])
            return [v + scale * image / self.proximal for v, scale, image in zip(vectors, scales, images, strict=True)]

        target = [scale * gradient for scale, gradient in zip(scales, gradients, strict=True)]
        solution = solve_conjugate_gradients(apply, target, self.cg_steps)
        return [piece / scale for piece, scale in zip(solution, scales, strict=True)]

    def _slacken(self, name: str, tensor: Tensor, support: Support) -> Tensor:
        """The s of `_solve`, (lanes, 1, ...): one over the root of the ways for a body that hears their mean, else one."""
        ones = tensor.new_ones(support.lanes, *[1] * (tensor.dim() - 1))
        is_mean = self.body_objective == "mean" and name.startswith(BODY)
        return ones / support.class_mask.sum(1).view_as(ones).sqrt() if is_mean else ones

    def _make_curvature(self, params: Params, support: Support, weights: Params) -> Callable[[Vectors], Vectors]:
        """v to H v, each lane by its own Hessian of the support loss at its own weights (lanes, ...)."""
        fixed = {name: tensor.detach() for name, tensor in params.items()}
        with torch.enable_grad():
            leaves = {name: tensor.detach().requires_grad_() for name, tensor in weights.items()}
            head = {CLASS_MASK: support.class_mask} if self.kind == "classification" else {}
            objective, _, _ = self.measure(fixed, {**leaves, **head}, support)
            slopes = torch.autograd.grad(objective, list(leaves.values()), create_graph=True)
        return lambda vectors: torch.autograd.grad(slopes, list(leaves.values()), list(vectors), retain_graph=True)


class ImplicitGradient(torch.autograd.Function):
    """Adapted weights (lanes, ...), the first of them with their centres, as a function of these: backward solves for the gradient."""

    @staticmethod
    def forward(ctx: Any, solve: Callable[[Vectors, Vectors], Vectors], adapted: Vectors, *centres: Tensor) -> Any:
        tied = tuple(tensor.clone() for tensor in adapted)
        ctx.solve, ctx.n_centres = solve, len(centres)
        ctx.save_for_backward(*tied)
        return tied

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        solution = ctx.solve(ctx.saved_tensors, gradients)
        return None, None, *(piece.sum(0) for piece in solution[: ctx.n_centres])


def solve_conjugate_gradients(apply: Callable[[Vectors], Vectors], target: Vectors, steps: int) -> Vectors:
    """x with apply(x) = target, each lane by itself, after `steps` iterations (Hestenes & Stiefel 1952) from zero.

    `apply` is symmetric. ReLU networks that are not quite at rest do not promise that it is positive: as in truncated Newton methods
    (Steihaug 1983) a lane stops where a direction shows no positive curvature, and one that never set out has `target`. No iterate on
    the way is longer than the solution.
    """
    solution = [torch.zeros_like(piece) for piece in target]
    residual = direction = target
    size = _dot(target, target)
    negligible = torch.finfo(size.dtype).eps ** 2 * size
    is_open = size > negligible
    for _ in range(steps):
        image = apply(direction)
        curvature = _dot(direction, image)
        is_open = is_open & (curvature > 0)
        length = torch.where(is_open, size / curvature.where(is_open, 1), 0)
        solution = _add(solution, length, direction)
        residual = _add(residual, -length, image)
        left = _dot(residual, residual)
        direction = _add(residual, left / size.where(size > 0, 1), direction)
        is_open, size = is_open & (left > negligible), left
    never_set_out = (_dot(solution, solution) == 0).to(size.dtype)
    return _add(solution, never_set_out, target)


def _dot(a: Vectors, b: Vectors) -> Tensor:
    """Inner products (lanes,)."""
    return torch.stack([(one * other).flatten(1).sum(1) for one, other in zip(a, b, strict=True)]).sum(0)


def _add(vectors: Vectors, factor: Tensor, others: Vectors) -> list[Tensor]:
    """vectors + factor * others, factor (lanes,)."""
    return [vector + factor.view(-1, *[1] * (vector.dim() - 1)) * other for vector, other in zip(vectors, others, strict=True)]
