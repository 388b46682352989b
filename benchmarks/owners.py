"""Whose the milliseconds of a prediction are, in this process: clocks of the engine, of calls that are watched, and the rest."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from time import perf_counter
from typing import Any

Spent = Mapping[str, float]
"""Milliseconds by owner."""


class Stopwatch:
    """Adds up milliseconds by owner, also those of awaited calls that it watches; who waits for another's call has none of his own."""

    def __init__(self) -> None:
        self._spent_ms: defaultdict[str, float] = defaultdict(float)

    def add(self, spent_ms: Spent) -> None:
        for name, ms in spent_ms.items():
            self._spent_ms[name] += ms

    def watch(self, owner: object, method: str, name: str) -> None:
        """From now on, for as long as the owner lives."""
        call = getattr(owner, method)

        async def timed(*given: Any, **named: Any) -> Any:
            begun_s = perf_counter()
            try:
                return await call(*given, **named)
            finally:
                self._spent_ms[name] += (perf_counter() - begun_s) * 1e3

        setattr(owner, method, timed)

    def take(self) -> Spent:
        """What was added since this was called last."""
        spent_ms, self._spent_ms = dict(self._spent_ms), defaultdict(float)
        return spent_ms


def share_out(latencies_ms: Iterable[float], spent_ms: Iterable[Spent]) -> dict[str, float]:
    """Means by owner, of requests that took so long and in which owners spent so much in all; what nobody has is `rest`."""
    spans_ms, owned = list(latencies_ms), Stopwatch()
    for each in spent_ms:
        owned.add(each)
    means = {name: round(ms / len(spans_ms), 4) for name, ms in owned.take().items()}
    return {**means, "rest": round(sum(spans_ms) / len(spans_ms) - sum(means.values()), 4)} if spans_ms else {}
