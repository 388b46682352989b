"""The tables of `serve` in docs/performance.md: of one deployment after the other, for their columns say different things."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.figures import show, show_ratio, show_share
from benchmarks.markdown import tabulate
from benchmarks.profile_tables import profile_serve
from benchmarks.reports import Reports, Row, name_peers


def tabulate_serve(reports: Reports) -> str:
    """Of each deployment closed loops, open loops, and the owners of the milliseconds."""
    deployments = dict.fromkeys(row["settings"]["deployment"] for row in reports.rows("serve"))
    return "\n\n".join(part for deployment in deployments for part in _tell_deployment(reports, deployment))


def _tell_deployment(reports: Reports, deployment: str) -> list[str]:
    """Each table after its title; none that would be empty."""
    closed, opened = (reports.rows("serve", deployment=deployment, loop=loop) for loop in ("closed", "open"))
    parts = list[str]()
    if closed:
        parts += [f"**{deployment}**, closed loop, answered requests/s", _tabulate_load(closed, ["workload", "clients"])]
    if opened:
        title = "open loop, the 99th percentile in milliseconds; a request that was not answered counts as long as anybody waits"
        parts += [f"**{deployment}**, {title}", _tabulate_load(sorted(opened, key=_rank_open), ["workload", "rate_per_s", "clients"])]
    if closed:
        parts += [f"**{deployment}**, where the milliseconds of the service went, closed loop, means", profile_serve(closed)]
    return parts


def _rank_open(row: Row) -> tuple[str, float, int]:
    """Numbers of clients stand together that are met at the same rate."""
    settings = row["settings"]
    return settings["workload"], settings["rate_per_s"], settings["clients"]


def _tabulate_load(rows: Sequence[Row], names: Sequence[str]) -> str:
    peers = name_peers(rows)
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
