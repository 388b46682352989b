"""Rows of figures that are not spans of time: rates and percentiles of contenders that took turns, round after round."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from benchmarks.harness import OURS, Row, make_row

Figures = Mapping[str, float]
"""One round: each contender's figure by its name, `ours` among them."""


def find_ratio(unit: str, figures: Figures) -> float | None:
    """How many times better than the fastest peer of the same round we were."""
    return make_row({}, unit, figures[OURS], {name: figure for name, figure in figures.items() if name != OURS}).ratio


def join_rounds(
    settings: Mapping[str, Any],
    unit: str,
    rounds: Sequence[Figures],
    *,
    limit: float | None = None,
    peak: float | None = None,
    **details: Any,
) -> Row:
    """The medians over all rounds, and the median of the rounds' own ratios: a round that was slow for everybody counts like the others.

    limit, peak: the rates that the arithmetic alone would reach, as a large matrix product and as bare multiply-adds.
    """
    medians = {name: median(figures[name] for figures in rounds) for name in rounds[0]}
    ratios = [ratio for figures in rounds if (ratio := find_ratio(unit, figures)) is not None]
    peers = {name: figure for name, figure in medians.items() if name != OURS}
    spread = {"rounds": len(rounds), "ratio_range": [min(ratios), max(ratios)] if ratios else None}
    limit_fraction, peak_fraction = (medians[OURS] / bound if bound else None for bound in (limit, peak))
    ratio = median(ratios) if ratios else None
    return Row(settings, unit, medians[OURS], peers, ratio, limit_fraction, peak_fraction, {**spread, **details})
