"""The tables of docs/performance.md, one function for each benchmark: rows in, Markdown out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from benchmarks.figures import NOTHING, show, show_latencies, show_loss, show_ratio, show_share
from benchmarks.markdown import tabulate
from benchmarks.profile_tables import profile_cache, profile_predict
from benchmarks.reports import Reports, Row, name_peers
from benchmarks.serve_tables import tabulate_serve
from benchmarks.setting_names import Name

METHODS = ("maml", "anil", "protonet", "ridge")


def tabulate_adapt(reports: Reports) -> str:
    """A table for each method, and what 64 lanes take for one."""
    parts = [
        f"**{method}**, milliseconds of all lanes together\n\n" + _tabulate_paired(rows, ["backbone", "shot", "lanes"], "adaptations_per_s")
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
    table = _tabulate_paired(reports.rows("train"), ["backbone", "tasks"], "steps_per_s")
    return f"Milliseconds of one meta-gradient of all tasks\n\n{table}"


def _tabulate_paired(rows: Sequence[Row], names: Sequence[str], rate: str) -> str:
    """Paired times, with a column for each peer, and two for the shares of what the arithmetic alone would do."""
    peers = name_peers(rows)
    header = [*names, "ours", f"ours, {rate.replace('_per_s', '/s').replace('_', ' ')}", *peers, "ratio (quartiles)"]
    header += ["of the limit", "of the peak"]
    cells = [
        [
            *(str(row["settings"][name]) for name in names),
            show(row["ours"]),
            show(row["details"][rate]),
            *(show(row["peers"].get(peer)) for peer in peers),
            show_ratio(row, row["details"]["ratio_iqr"]),
            show_share(row["limit_fraction"]),
            show_share(row.get("peak_fraction")),
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
    """What was answered, and the owners of the milliseconds."""
    header = [
        "initializer",
        "callers",
        "resident tasks",
        "queries/s",
        "p50 ms",
        "p99 ms",
        "lost from 5 tasks (quartiles)",
        "to a bare forward",
    ]
    header += ["of the limit", "of the peak"]
    cells = [
        [
            f"`{row['settings']['initializer']}`",
            str(row["settings"]["callers"]),
            f"{row['settings']['resident_tasks']:,}",
            show(row["ours"]),
            *show_latencies(row["details"]),
            show_loss(row["details"]),
            show_ratio(row, row["details"]["ratio_range"]),
            show_share(row["limit_fraction"]),
            show_share(row.get("peak_fraction")),
        ]
        for row in sorted(reports.rows("predict"), key=lambda row: row["settings"]["callers"])
    ]
    return "\n\n".join([tabulate(header, cells), *profile_predict(reports.rows("predict"))])


def tabulate_cache(reports: Reports) -> str:
    """What callers waited for, and the owners of the milliseconds."""
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
            *show_latencies(row["details"]),
            _show_slowdown(row),
            show_share(row["details"]["device_hit_share"]),
        ]
        for row in reports.rows("cache")
    ]
    return "\n\n".join([tabulate(header, cells), *profile_cache(reports.rows("cache"))])


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


TABLES: Mapping[str, Callable[[Reports], str]] = {
    "adapt": tabulate_adapt,
    "train": tabulate_train,
    "paths": tabulate_paths,
    "predict": tabulate_predict,
    "serve": tabulate_serve,
    "cache": tabulate_cache,
    "memory": tabulate_memory,
}
