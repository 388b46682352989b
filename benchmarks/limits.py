"""What this machine could do of one kind of call if it did nothing but the arithmetic that the call cannot do without."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.flops import count_forward, count_head, count_maml
from benchmarks.harness import OURS, Row
from benchmarks.rates import Rates
from benchmarks.timing import Timings
from models.artifact import read_card
from models.backbones import Conv4, build_backbone


def hold_to_limits(timings: Timings, settings: Mapping[str, Any], flops: int, as_written: int, rates: Rates, **details: Any) -> Row:
    """The row with its shares of the limit and of the peak, and in its details what they are computed from.

    flops: that what is timed cannot do without. as_written: of the loop that everybody writes."""
    known = {
        "gflop": flops / 1e9,
        "gflop_as_written": as_written / 1e9,
        "limit_fraction_as_written": as_written / rates.matmul / timings.median_s(OURS),
        **rates.describe(),
    }
    peak_s = flops / rates.peak if rates.peak else None
    return timings.to_row(settings, limit_s=flops / rates.matmul, peak_s=peak_s, **known, **details)


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
