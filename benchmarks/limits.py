"""What this machine could do of one kind of call if it did nothing but the arithmetic that the call cannot do without."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from benchmarks.flops import count_forward, count_head, count_maml
from benchmarks.rates import Rates
from models.artifact import read_card
from models.backbones import Conv4, build_backbone


def find_backbone(folder: Path) -> Conv4:
    """The network of an image initializer."""
    learner = read_card(folder).learner
    backbone = build_backbone(dict(learner["backbone"]), tuple(learner["input_shape"]))
    if not isinstance(backbone, Conv4):
        raise ValueError(f"{folder.name} has another backbone than conv4, whose FLOPs are not known")
    return backbone


def find_prediction_limits(folder: Path, n_way: int, rates: Rates) -> Rates:
    """Queries/s."""
    return rates.of_calls(count_prediction(find_backbone(folder), n_way))


def find_call_limits(folder: Path, n_way: int, k_shot: int, rates: Rates, adapting_share: float) -> Mapping[str, Rates]:
    """Calls/s of each workload of `serve`: predictions of one query, MAML adaptations, and both mixed."""
    backbone, steps = find_backbone(folder), int(read_card(folder).learner["inner_steps"])
    predict = count_prediction(backbone, n_way)
    adapt = count_maml(backbone, n_way * k_shot, n_way, steps)
    mixed = adapting_share * adapt + (1 - adapting_share) * predict
    return {name: rates.of_calls(flops) for name, flops in {"predict": predict, "adapt": adapt, "mixed": mixed}.items()}


def count_prediction(backbone: Conv4, n_way: int) -> int:
    """FLOPs of the answer to one query."""
    return count_forward(backbone, 1) + count_head(backbone, 1, n_way)
