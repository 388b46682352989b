"""How figures are written in the tables of docs/performance.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.reports import Row

NOTHING = "-"


def show_latencies(found: Mapping[str, Any]) -> list[str]:
    """Median and p99."""
    return [show(found["p50_ms"]), show(found["p99_ms"])]


def show(value: float | None) -> str:
    """Three digits that say something, and more before the point."""
    if value is None:
        return NOTHING
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def show_share(share: float | None) -> str:
    """In percent."""
    return NOTHING if share is None else f"{100 * share:.0f} %" if abs(share) >= 0.1 else f"{100 * share:.1f} %"


def show_loss(details: Mapping[str, Any]) -> str:
    """Throughput lost, and its spread."""
    lost, spread = details["lost_from_5_tasks"], details.get("lost_quartiles")
    return show_share(lost) + (f" ({' to '.join(map(show_share, spread))})" if spread else "")


def show_ratio(row: Row, spread: Sequence[float] | None) -> str:
    """The ratio to the fastest peer of its round, and its spread."""
    if row["ratio"] is None or spread is None:
        return NOTHING
    return f"{row['ratio']:.2f}x ({spread[0]:.2f} to {spread[1]:.2f})"
