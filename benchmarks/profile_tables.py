"""Tables of where milliseconds went: a line for each setting, a column for each owner, whose means add up to that of the line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.figures import show, show_latencies
from benchmarks.markdown import tabulate
from benchmarks.reports import Row
from benchmarks.setting_names import count

OWNERS = (
    *("decode", "queue_wait", "choose", "read", "bring_back", "queue", "batch", "device", "encode", "store"),
    *("in_service", "outside", "rest"),
)
"""Of a request's milliseconds in the order in which they have it; others come behind them."""

Line = tuple[str, Mapping[str, Any]]
"""What was measured, and its latencies with `phases_ms`."""


def profile_serve(rows: Sequence[Row]) -> str:
    """A line for each workload, number of clients and kind of request; of rows of one deployment."""
    return tabulate_owners(
        [
            (f"{settings['workload']}, {count(settings['clients'], 'client')}: {kind}", ours[kind])
            for row in rows
            for settings, ours in [(row["settings"], row["details"]["contenders"]["ours"])]
            for kind in ("adapt", "predict")
            if kind in ours
        ]
    )


def profile_predict(rows: Sequence[Row]) -> list[str]:
    """Fewest and most tasks of those that a loss is told of; nothing for files without owners."""
    known = [row for row in rows if "phases_ms" in row["details"] and row["settings"]["resident_tasks"] in (5, 2000)]
    return _tell("Where the milliseconds of the engine went, means", [(_name_predict(row["settings"]), row["details"]) for row in known])


def _name_predict(settings: Mapping[str, Any]) -> str:
    return f"`{settings['initializer']}`, {count(settings['callers'], 'caller')}, {settings['resident_tasks']:,} tasks"


def profile_cache(rows: Sequence[Row]) -> list[str]:
    """Of the walks in which every request hits, and in which every one misses; nothing for files without owners."""
    known = [
        row
        for row in rows
        if "phases_ms" in row["details"] and row["settings"]["pattern"] == "sweep" and row["settings"]["working_set"] in (0.5, 10)
    ]
    return _tell("Where the milliseconds of a `sweep` went, means", [(_name_cache(row["settings"]), row["details"]) for row in known])


def _name_cache(settings: Mapping[str, Any]) -> str:
    return f"{settings['store']}, {count(settings['callers'], 'caller')}, {settings['working_set']:g}x"


def _tell(title: str, lines: Sequence[Line]) -> list[str]:
    return [title, tabulate_owners(lines)] if lines else []


def tabulate_owners(lines: Sequence[Line]) -> str:
    """Latencies, and what each owner had of their mean."""
    known = dict.fromkeys(name for _, told in lines for name in told.get("phases_ms", {}))
    names = [*(name for name in OWNERS if name in known), *(name for name in known if name not in OWNERS)]
    cells = [
        [name, *show_latencies(told), show(told["mean_ms"]), *(show(told.get("phases_ms", {}).get(each)) for each in names)]
        for name, told in lines
    ]
    return tabulate(["milliseconds", "p50", "p99", "mean", *(name.replace("_", " ") for name in names)], cells)
