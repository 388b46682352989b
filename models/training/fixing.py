"""The last step of learning an architecture: an initializer whose backbone has gates becomes one whose backbone has none."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from models.artifact import Card, Initializer, save_initializer
from models.backbones import GatedConv4
from models.backbones.gated_conv4 import fix_architecture
from models.errors import InvalidOptions
from models.learner import BODY
from models.methods import build_learner
from models.support import Params
from models.training.evidence import measure_confidence, measure_rows
from models.training.recipe import parse_recipe


def fix_initializer(initializer: Initializer, folder: Path) -> Card:
    """Writes `folder` with the plain network that is left when closed channels and convolutions are dropped, measured anew.

    A learner that adapts nothing of the body answers as before; one that does adapts fewer weights, and may want some training more.
    Raises InvalidOptions for a backbone without gates, and for a method with tensors of the body's width.
    """
    card = initializer.card
    spec, params = _drop_closed(initializer)
    learner = build_learner(spec)
    wanted = {name: tensor.shape for name, tensor in learner.init(torch.Generator().manual_seed(0)).items()}
    if misfits := sorted(name for name in wanted if name not in params or params[name].shape != wanted[name]):
        raise InvalidOptions(f"{card.name} cannot lose channels: {misfits} are as wide as its features")
    recipe = parse_recipe(card.recipe)
    fixed = replace(
        card,
        learner=spec,
        accuracy=measure_rows(recipe, learner, params),
        confidence=measure_confidence(recipe, learner, params),
        trained_with=f"{card.trained_with}; then innerloop fix-architecture",
    )
    return save_initializer(folder, fixed, params)


def _drop_closed(initializer: Initializer) -> tuple[dict[str, object], Params]:
    """The spec of the learner without gates, and its parameters."""
    backbone = getattr(initializer.learner, "backbone", None)
    if not isinstance(backbone, GatedConv4):
        raise InvalidOptions(f"{initializer.card.name} has no gates to fix; its backbone must be gated-conv4")
    names = set(backbone.init(torch.Generator().manual_seed(0)))
    prefix = BODY if any(name.startswith(BODY) for name in initializer.params) else ""
    body = {name.removeprefix(prefix): tensor for name, tensor in initializer.params.items() if name.removeprefix(prefix) in names}
    others = {name: tensor for name, tensor in initializer.params.items() if name.removeprefix(prefix) not in names}
    spec, fixed = fix_architecture(backbone, body)
    return {**initializer.card.learner, "backbone": spec}, others | {prefix + name: tensor for name, tensor in fixed.items()}
