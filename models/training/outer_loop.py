"""The outer loop: adapt to episodes through the graph, judge on their queries, step the meta-parameters with Adam."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from models.backbones import Penalised
from models.episodes import EpisodeBatch, EpisodeSource
from models.errors import CheckpointCorrupt, InvalidRecipe
from models.learner import BODY, HasMetaLoss, Learner
from models.methods.objectives import adapted_loss
from models.support import Params
from models.training.recipe import OuterRecipe, Recipe

ADAM_MOMENTS = ("exp_avg", "exp_avg_sq")


class OuterLoop:
    """The mutable state of a meta-training: meta-parameters, their moving average, Adam's moments, the generator, the step."""

    def __init__(self, recipe: Recipe, learner: Learner, source: EpisodeSource, params: Params, device: str = "cpu") -> None:
        self._recipe = recipe
        self._learner = learner
        self._source = source
        self._device = device
        self._weights = torch.tensor([shape.weight for shape in recipe.episodes])
        self.generator = torch.Generator().manual_seed(recipe.seed)
        self.params = {name: tensor.detach().to(device, copy=True) for name, tensor in params.items()}
        self.average = {name: tensor.clone() for name, tensor in self.params.items()}
        self._trained = {name: tensor.requires_grad_() for name, tensor in self.params.items() if not is_frozen(name, recipe.outer, params)}
        self._adam = torch.optim.Adam(self._trained.values(), lr=recipe.outer.learning_rate, fused=True)
        self.step = 0

    def advance(self) -> tuple[float, float]:
        """One meta-step; the meta-loss and the accuracy on the queries (NaN for regression) before it."""
        batch = self._draw()
        outer = self._recipe.outer
        for group in self._adam.param_groups:
            group["lr"] = learning_rate_at(outer, self.step)
        self._adam.zero_grad()
        loss, accuracy = meta_loss(self._learner, self.params, batch, self.step / outer.meta_steps)
        torch.autograd.backward(loss + self._cost())
        torch.nn.utils.clip_grad_norm_(self._trained.values(), outer.clip_norm)
        self._check_finite(loss)
        self._adam.step()
        self.step += 1
        self._update_average()
        return loss.item(), accuracy

    @property
    def tasks_per_step(self) -> float:
        """Episodes in a meta-batch, on average."""
        shapes = self._recipe.episodes
        return sum(s.tasks * s.weight for s in shapes) / sum(s.weight for s in shapes)

    def tensors(self) -> dict[str, Params]:
        """Everything but the generator, by group, as a checkpoint holds it."""
        stepped = {name: self._adam.state[tensor] for name, tensor in self._trained.items() if tensor in self._adam.state}
        moments = {moment: {name: state[moment] for name, state in stepped.items()} for moment in ADAM_MOMENTS}
        return {"params": dict(self.params), **moments, "ema": self.average}

    def restore(self, step: int, tensors: dict[str, Params], generator: Tensor) -> None:
        """Puts the loop back where `tensors` were taken. Raises CheckpointCorrupt when they are of another learner."""
        for group in ("params", "ema", *ADAM_MOMENTS) if step else ("params", "ema"):
            _check_names(group, tensors[group], self._trained if group in ADAM_MOMENTS else self.params)
        with torch.no_grad():
            for name, parameter in self.params.items():
                parameter.copy_(tensors["params"][name])
                self.average[name].copy_(tensors["ema"][name])
                if step and name in self._trained:
                    self._restore_moments(parameter, name, step, tensors)
        self.generator.set_state(generator)
        self.step = step

    def _restore_moments(self, parameter: Tensor, name: str, step: int, tensors: dict[str, Params]) -> None:
        moments = {moment: tensors[moment][name].to(parameter.device, copy=True) for moment in ADAM_MOMENTS}
        self._adam.state[parameter] = {"step": torch.tensor(float(step), device=parameter.device), **moments}

    def _draw(self) -> EpisodeBatch:
        shapes = self._recipe.episodes
        chosen = int(torch.multinomial(self._weights, 1, generator=self.generator)) if len(shapes) > 1 else 0
        batch = self._source.draw(shapes[chosen].shape, self.generator)
        return batch if self._device == "cpu" else batch.to(self._device)

    def _cost(self) -> Tensor | float:
        """What the backbone's present form costs, weighed; not part of the meta-loss that is reported."""
        weight, backbone = self._recipe.outer.cost_weight, getattr(self._learner, "backbone", None)
        if not weight or not isinstance(backbone, Penalised):
            return 0.0
        return weight * backbone.cost({name.removeprefix(BODY): tensor for name, tensor in self.params.items()})

    def _update_average(self) -> None:
        # Early on the average forgets faster, or the random start would stay in it for thousands of steps.
        decay = min(self._recipe.outer.ema_decay, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for name, parameter in self.params.items():
                self.average[name].lerp_(parameter, 1 - decay)

    def _check_finite(self, loss: Tensor) -> None:
        if not torch.isfinite(loss):
            advice = "lower outer.learning_rate or learner.inner_lr"
            raise InvalidRecipe(f"the meta-loss became {loss.item()} at step {self.step}: {advice}; the last checkpoint is still good")


def meta_loss(learner: Learner, params: Params, batch: EpisodeBatch, progress: float = 0.0) -> tuple[Tensor, float]:
    """The learner's own objective, or the mean loss on the queries after adaptation; with its graph to `params`, and the
    accuracy on the queries (NaN for regression)."""
    if isinstance(learner, HasMetaLoss):
        return learner.meta_loss(params, batch, progress)
    return adapted_loss(learner, params, batch)


def learning_rate_at(outer: OuterRecipe, step: int) -> float:
    """Linear over the warm-up, then half a cosine from the full rate down to zero at the last step."""
    warm = min(1.0, (step + 1) / (outer.warmup + 1))
    return outer.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * step / outer.meta_steps))


def is_frozen(name: str, outer: OuterRecipe, params: Params) -> bool:
    """Whether meta-training leaves this tensor as it is. Raises InvalidRecipe when `outer.frozen` names nothing, or everything."""
    for prefix in outer.frozen:
        if not any(other.startswith(prefix) for other in params):
            raise InvalidRecipe(f"outer.frozen has {prefix!r}, with which no meta-parameter begins; there are {sorted(params)}")
    if all(other.startswith(outer.frozen) for other in params):
        raise InvalidRecipe(f"outer.frozen is {list(outer.frozen)}: nothing is left to train")
    return name.startswith(outer.frozen)


def _check_names(group: str, tensors: Params, params: Params) -> None:
    if {n: t.shape for n, t in tensors.items()} != {n: t.shape for n, t in params.items()}:
        raise CheckpointCorrupt(f"the checkpoint's {group} must hold {sorted(params)} in the learner's shapes, got {sorted(tensors)}")
