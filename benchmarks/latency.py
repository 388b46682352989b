"""Latencies in a few numbers: percentiles by nearest rank, so that every figure is a latency that somebody had."""

from __future__ import annotations

import math
from collections.abc import Sequence


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest of `values` that at least `share` of them do not exceed; NaN of nothing."""
    if not values:
        return math.nan
    rank = math.ceil(share * len(values))
    return sorted(values)[max(rank, 1) - 1]


def summarise_ms(latencies_ms: Sequence[float]) -> dict[str, float]:
    """Median, p99 and mean in milliseconds."""
    mean_ms = sum(latencies_ms) / len(latencies_ms) if latencies_ms else math.nan
    return {
        "p50_ms": round(percentile(latencies_ms, 0.5), 3),
        "p99_ms": round(percentile(latencies_ms, 0.99), 3),
        "mean_ms": round(mean_ms, 3),
    }
