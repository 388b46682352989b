"""When requests are due: Poisson arrivals, as independent clients make them, whether the server keeps up or not."""

from __future__ import annotations

import random


def poisson_arrivals_s(rate_per_s: float, duration_s: float, seed: int) -> list[float]:
    """Rising times in [0, duration_s) with exponential gaps of mean 1 / rate_per_s; the same seed gives the same times."""
    if rate_per_s <= 0:
        raise ValueError(f"a rate above 0 per second is needed, got {rate_per_s}")
    chance = random.Random(seed)
    times_s: list[float] = []
    at_s = chance.expovariate(rate_per_s)
    while at_s < duration_s:
        times_s.append(at_s)
        at_s += chance.expovariate(rate_per_s)
    return times_s
