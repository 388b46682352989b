"""Paired, interleaved timing: in every repetition each contender runs once, so that what slows the machine slows all of them.

Medians of each contender are what people read; the median of paired ratios is what counts, since a repetition that was slow for
everybody has the same ratio as a fast one. The order rotates, so that nobody always runs in the wake of the same neighbour.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from benchmarks.harness import OURS, Row

Contender = Callable[[], Any]

LEAST_REPETITIONS = 5


@dataclass(frozen=True)
class Spread:
    """Median and quartiles."""

    median: float
    q1: float
    q3: float


@dataclass(frozen=True)
class Timings:
    """Seconds of every contender in every repetition; the same index is the same repetition."""

    spans_s: Mapping[str, list[float]]

    @property
    def peers(self) -> list[str]:
        """Names of the others, the fastest first."""
        return sorted((name for name in self.spans_s if name != OURS), key=self.median_s)

    def median_s(self, name: str) -> float:
        return float(np.median(self.spans_s[name]))

    def ratio(self, peer: str) -> Spread:
        """How many times longer a peer takes than we do, in each repetition."""
        ratios = np.array(self.spans_s[peer]) / np.array(self.spans_s[OURS])
        return Spread(*(float(value) for value in np.percentile(ratios, [50, 25, 75])))

    def to_row(self, settings: Mapping[str, Any], *, limit_s: float | None = None, peak_s: float | None = None, **details: Any) -> Row:
        """A row in milliseconds. limit_s, peak_s: what the arithmetic would take as a large matrix product, and as bare multiply-adds."""
        ours_s, fastest = self.median_s(OURS), next(iter(self.peers), None)
        spread = self.ratio(fastest) if fastest else None
        known = {"fastest_peer": fastest, "ratio_iqr": [spread.q1, spread.q3] if spread else None}
        return Row(
            settings,
            unit="ms",
            ours=1e3 * ours_s,
            peers={name: 1e3 * self.median_s(name) for name in self.peers},
            ratio=spread.median if spread else None,
            limit_fraction=None if limit_s is None else limit_s / ours_s,
            peak_fraction=None if peak_s is None else peak_s / ours_s,
            details={"repetitions": len(self.spans_s[OURS]), **known, **details},
        )


def time_paired(
    contenders: Mapping[str, Contender],
    *,
    repetitions: int,
    warm_up: int = 1,
    budget_s: float = math.inf,
    device: str = "cpu",
    shares: Mapping[str, float] | None = None,
) -> Timings:
    """Times every contender once a repetition, in rotated order; one of them is named `ours`.

    Ends early when the budget is spent, but not before LEAST_REPETITIONS: fewer have no median worth the name. shares: the part of the
    work that a contender does, where it is not all of it; it is charged with all."""
    names = list(contenders)
    spans_s: dict[str, list[float]] = {name: [] for name in names}
    started_s = time.perf_counter()
    for repetition in range(-warm_up, repetitions):
        if repetition >= LEAST_REPETITIONS and time.perf_counter() - started_s > budget_s:
            break
        start = repetition % len(names)
        for name in names[start:] + names[:start]:
            span_s = time_once(contenders[name], device) / (shares or {}).get(name, 1.0)
            if repetition >= 0:
                spans_s[name].append(span_s)
    return Timings(spans_s)


def time_once(contender: Contender, device: str = "cpu") -> float:
    """Seconds until its work is done, on the device too."""
    _finish(device)
    started_s = time.perf_counter()
    contender()
    _finish(device)
    return time.perf_counter() - started_s


def _finish(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize(device)
