"""The tables of docs/performance.md, one function for each benchmark: rows in, Markdown out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks.markdown import tabulate
from benchmarks.reports import Reports, Row
from benchmarks.setting_names import Name, count

NOTHING = "-"
METHODS = ("maml", "anil", "protonet", "ridge")
PHASES = ("decode", "queue_wait", "choose", "queue", "batch", "device", "encode", "store", "in_service", "outside")
"""Owners of a request's milliseconds in the order in which they have it; others come behind them."""


def tabulate_adapt(reports: Reports) -> str:
    """A table for each method, and what 64 lanes take for one."""
    parts = [
        f"**{method}**, milliseconds of all lanes together\n\n"
        + _tabulate_paired(rows, ["backbone", "shot", "lanes"], "adaptations_per_s", ("limit", "peak"))
        for method in METHODS
        if (rows := reports.rows("adapt", method=method))
    ]
    growth = [[", ".join(name), f"{times:.1f}x"] for name, times in find_growth(reports).items()]
    return "\n\n".join([*parts, *([tabulate(["64 lanes against 1 lane", "time"], growth)] if growth else [])])


def find_growth(reports: Reports) -> dict[Name, float]:
    """How many times longer 64 lanes take than one, by setting."""
    alone_ms = {name_adapt(row): row["ours"] for row in reports.rows("adapt", lanes=1)}
    together_ms = {name_adapt(row): row["ours"] for row in reports.rows("adapt", lanes=64)}
    return {name: span_ms / alone_ms[name] for name, span_ms in together_ms.items() if name in alone_ms}


def name_adapt(row: Row) -> Name:
    """A setting without its number of lanes."""
    settings = row["settings"]
    return settings["method"], settings["backbone"], f"{settings['shot']}-shot"


def tabulate_train(reports: Reports) -> str:
    """One table."""
    return "Milliseconds of one meta-gradient of all tasks\n\n" + _tabulate_paired(
        reports.rows("train"), ["backbone", "tasks"], "steps_per_s"
    )


def _tabulate_paired(rows: Sequence[Row], names: Sequence[str], rate: str, shares: Sequence[str] = ("limit",)) -> str:
    """Paired times, with a column for each peer, and for each share of what the arithmetic alone would do."""
    peers = _name_peers(rows)
    header = [*names, "ours", f"ours, {rate.replace('_per_s', '/s').replace('_', ' ')}", *peers, "ratio (quartiles)"]
    header += [f"of the {share}" for share in shares]
    cells = [
        [
            *(str(row["settings"][name]) for name in names),
            show(row["ours"]),
            show(row["details"][rate]),
            *(show(row["peers"].get(peer)) for peer in peers),
            show_ratio(row, row["details"]["ratio_iqr"]),
            *(show_share(row.get(f"{share}_fraction")) for share in shares),
        ]
        for row in rows
    ]
    return tabulate(header, cells)


def tabulate_paths(reports: Reports) -> str:
    """What the choice of a path comes to, and a line for each initializer and number of lanes."""
    header = ["initializer", "lanes"]
    header += [f"{work}: {name}" for work in ("adapt", "predict") for name in ("C", "torch", "lane by lane", "ratio (quartiles)")]
    predicting = {_name_path(row): row for row in reports.rows("paths", work="predict")}
    cells = [
        [
            f"`{row['settings']['initializer']}`",
            str(row["settings"]["lanes"]),
            *_show_paths(row),
            *_show_paths(predicting.get(_name_path(row))),
        ]
        for row in reports.rows("paths", work="adapt")
    ]
    return f"{_judge_paths(reports.rows('paths'))}\n\n{tabulate(header, cells)}"


def _name_path(row: Row) -> tuple[str, int]:
    return row["settings"]["initializer"], row["settings"]["lanes"]


def _show_paths(row: Row | None) -> list[str]:
    if row is None:
        return [NOTHING] * 4
    ways = [row["ours"], row["peers"]["torch"], row["peers"].get("torch, lane by lane")]
    return [*map(show, ways), show_ratio(row, row["details"]["ratio_iqr"])]


def _judge_paths(rows: Sequence[Row]) -> str:
    """Where another way than C is faster by more than chance: the whole box of quartiles lies below one."""
    lost = [
        f"{row['settings']['work']} of `{row['settings']['initializer']}`, {row['settings']['lanes']} lanes"
        for row in rows
        if row["details"]["ratio_iqr"][1] < 1
    ]
    ratios = sorted(row["ratio"] for row in rows)
    verdict = f"torch is the faster in {len(lost)}: {'; '.join(lost)}" if lost else "torch is the faster in none by more than chance"
    return f"Milliseconds of all lanes together. Of {len(rows)} settings {verdict}; C is {ratios[0]:.2f} to {ratios[-1]:.2f} times as fast."


def tabulate_predict(reports: Reports) -> str:
    """One table."""
    header = ["initializer", "callers", "resident tasks", "queries/s", "p50 ms", "p99 ms", "lost from 5 tasks", "to a bare forward"]
    header += ["of the limit", "of the peak"]
    cells = [
        [
            f"`{row['settings']['initializer']}`",
            str(row["settings"]["callers"]),
            f"{row['settings']['resident_tasks']:,}",
            show(row["ours"]),
            *_latencies(row["details"]),
            show_share(row["details"]["lost_from_5_tasks"]),
            show_ratio(row, row["details"]["ratio_range"]),
            show_share(row["limit_fraction"]),
            show_share(row.get("peak_fraction")),
        ]
        for row in sorted(reports.rows("predict"), key=lambda row: row["settings"]["callers"])
    ]
    return tabulate(header, cells)


def tabulate_serve(reports: Reports) -> str:
    """Closed loops, open loops, and the owners of the milliseconds."""
    closed, opened = reports.rows("serve", loop="closed"), reports.rows("serve", loop="open")
    return "\n\n".join(
        [
            "Closed loop, answered requests/s",
            _tabulate_load(closed, ["deployment", "workload", "clients"]),
            "Open loop, the 99th percentile in milliseconds; a request that was not answered counts as long as anybody waits",
            _tabulate_load(opened, ["deployment", "workload", "clients", "rate_per_s"]),
            "Where the milliseconds of the service went, closed loop, means",
            tabulate_phases(closed),
        ]
    )


def _tabulate_load(rows: Sequence[Row], names: Sequence[str]) -> str:
    peers = _name_peers(rows)
    header = [
        *(name.replace("_per_s", "/s") for name in names),
        "ours",
        *peers,
        "ratio (range of rounds)",
        "of the limit",
        "lanes/batch: adapt",
        "predict",
    ]
    cells = [
        [
            *(str(row["settings"][name]) for name in names),
            show(row["ours"]),
            *(show(row["peers"].get(peer)) for peer in peers),
            show_ratio(row, row["details"]["ratio_range"]),
            show_share(row["limit_fraction"]),
            *(show(row["details"]["contenders"]["ours"]["lanes_per_batch"].get(work)) for work in ("adapt", "predict")),
        ]
        for row in rows
    ]
    return tabulate(header, cells)


def tabulate_phases(rows: Sequence[Row]) -> str:
    """A line for each workload, number of clients and kind of request; the phases of a line add up to its mean."""
    found = [
        (row["settings"], kind, ours[kind])
        for row in rows
        for ours in [row["details"]["contenders"]["ours"]]
        for kind in ("adapt", "predict")
        if kind in ours
    ]
    known = dict.fromkeys(name for _, _, told in found for name in told.get("phases_ms", {}))
    names = [*(name for name in PHASES if name in known), *(name for name in known if name not in PHASES)]
    cells = [
        [
            f"{settings['deployment']}, {settings['workload']}, {count(settings['clients'], 'client')}: {kind}",
            *_latencies(told),
            *(show(told.get("phases_ms", {}).get(name)) for name in names),
        ]
        for settings, kind, told in found
    ]
    return tabulate(["milliseconds", "p50", "p99", *(name.replace("_", " ") for name in names)], cells)


def tabulate_cache(reports: Reports) -> str:
    """One table."""
    header = [
        "store",
        "callers",
        "pattern",
        "working set",
        "tasks",
        "p50 ms",
        "p99 ms",
        "p99 to that inside (range of rounds)",
        "found on the device",
    ]
    cells = [
        [
            row["settings"]["store"],
            str(row["settings"]["callers"]),
            row["settings"]["pattern"],
            f"{row['settings']['working_set']:g}x",
            str(row["settings"]["tasks"]),
            *_latencies(row["details"]),
            _show_slowdown(row),
            show_share(row["details"]["device_hit_share"]),
        ]
        for row in reports.rows("cache")
    ]
    return tabulate(header, cells)


def _show_slowdown(row: Row) -> str:
    if row["ratio"] is None:
        return NOTHING
    best, worst = (1 / ratio for ratio in reversed(row["details"]["ratio_range"]))
    return f"{1 / row['ratio']:.2f}x ({best:.2f} to {worst:.2f})"


def tabulate_memory(reports: Reports) -> str:
    """A line for each learner."""
    on_device = {row["settings"]["initializer"]: row for row in reports.rows("memory", where="device")}
    header = ["initializer", "device, bytes", "tasks/GiB", "Redis, bytes", "of all weights in float32", "tasks/GiB", "error of the answers"]
    cells = [
        [
            f"`{name}`",
            *_bytes_of(on_device[name]),
            f"{row['ours']:,.0f}",
            show_share(row["ours"] / next(iter(row["peers"].values()))),
            f"{row['details']['tasks_per_gib']:,}",
            f"{row['details']['answer_error']:.2g}",
        ]
        for row in reports.rows("memory", where="redis")
        for name in [row["settings"]["initializer"]]
    ]
    return tabulate(header, cells)


def _bytes_of(row: Row) -> list[str]:
    return [f"{row['ours']:,.0f}", f"{row['details']['tasks_per_gib']:,}"]


def _name_peers(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(peer for row in rows for peer in sorted(row["peers"])))


def _latencies(found: Mapping[str, Any]) -> list[str]:
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


def show_ratio(row: Row, spread: Sequence[float] | None) -> str:
    """The ratio to the fastest peer of its round, and its spread."""
    if row["ratio"] is None or spread is None:
        return NOTHING
    return f"{row['ratio']:.2f}x ({spread[0]:.2f} to {spread[1]:.2f})"


TABLES: Mapping[str, Callable[[Reports], str]] = {
    "adapt": tabulate_adapt,
    "train": tabulate_train,
    "paths": tabulate_paths,
    "predict": tabulate_predict,
    "serve": tabulate_serve,
    "cache": tabulate_cache,
    "memory": tabulate_memory,
}
