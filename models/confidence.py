"""Confidence that means something: calibrated probabilities, and a score for queries that belong to no class of their task.

Both are read off the logits by a few numbers on the card, fitted on classes that training did not see
(`models.evaluation.calibration`): a temperature (Guo et al. 2017, arXiv:1706.04599) that may grow with the number of ways,
and a logistic regression on what is left of open-set cues when only logits are kept: the largest logit (Vaze et al. 2022,
arXiv:2110.06207), its lead over the second, and how much of the mass it holds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from models.errors import CheckpointCorrupt

N_CUES = 4
MIN_PROBABILITY = 1e-6
"""What a log likelihood takes a smaller one for: one wrong answer, however sure, must not outweigh all others."""


@dataclass(frozen=True)
class Confidence:
    """The figures of one initializer. Probabilities are the softmax of logits over `scale * n_way ** power`.

    unknown: weights of the cues and, last, the bias; empty when the initializer has no such score.
    """

    scale: float = 1.0
    power: float = 0.0
    unknown: tuple[float, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As the card holds it."""
        return {**asdict(self), "unknown": list(self.unknown)}


def parse_confidence(section: Mapping[str, Any]) -> Confidence:
    """The figures in a card's `confidence`; an empty section gives plain probabilities. Raises CheckpointCorrupt."""
    known = {key: section[key] for key in ("scale", "power", "unknown") if key in section}
    try:
        confidence = Confidence(**{**known, "unknown": tuple(float(weight) for weight in known.get("unknown", ()))})
        numbers = (confidence.scale, confidence.power, *confidence.unknown)
        is_sound = confidence.scale > 0 and all(math.isfinite(number) for number in numbers)
    except (TypeError, ValueError) as fault:
        raise CheckpointCorrupt(f"card.confidence must hold the numbers scale, power and unknown: {fault}") from fault
    if not is_sound or len(confidence.unknown) not in (0, N_CUES + 1):
        raise CheckpointCorrupt(f"card.confidence must hold a scale above 0 and {N_CUES + 1} finite weights or none, got {dict(known)}")
    return confidence


def calibrate(logits: Tensor, confidence: Confidence) -> tuple[Tensor, Tensor | None]:
    """Probabilities (lanes, n_query, max_way) and, where the initializer has the score, how likely each query is of no class.

    logits (lanes, n_query, max_way), minus infinity for classes a lane does not have. unknown (lanes, n_query) in (0, 1):
    one half where a known and an unknown query are equally likely, when both are equally frequent.
    """
    ways = count_ways(logits)
    probabilities = (logits / (confidence.scale * ways**confidence.power).unsqueeze(-1)).softmax(-1)
    if not confidence.unknown:
        return probabilities, None
    weights = logits.new_tensor(confidence.unknown)
    return probabilities, torch.sigmoid(read_cues(logits) @ weights[:-1] + weights[-1])


def count_ways(logits: Tensor) -> Tensor:
    """The number of classes that each answer chooses among, (lanes, n_query), in the type of the logits."""
    return (logits > -torch.inf).sum(-1).to(logits.dtype)


def read_cues(logits: Tensor) -> Tensor:
    """(lanes, n_query, 4): the largest logit, its lead over the second, minus the log of its share, and the log of the ways."""
    top = logits.topk(min(2, logits.shape[-1]), dim=-1).values
    largest, second = top[..., 0], top[..., -1].clamp(min=torch.finfo(logits.dtype).min)
    lead = (largest - second).clamp(max=1e4)
    return torch.stack([largest, lead, logits.logsumexp(-1) - largest, count_ways(logits).log()], dim=-1)
