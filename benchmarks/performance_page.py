"""Writes the measured parts of docs/performance.md, and of the README, from what the benchmarks left; no measurement is typed by hand.

    innerloop benchmark train --out docs/results/performance/train.json
    innerloop benchmark adapt --only '^maml' --out docs/results/performance/adapt-maml.json
    python -m benchmarks.performance_page docs/results/performance

What is not there yet is said to be `not measured yet`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from benchmarks.catalogue import ROOT
from benchmarks.figures import show, show_share
from benchmarks.markdown import replace_between
from benchmarks.performance_tables import TABLES
from benchmarks.performance_targets import EMBEDDED, UNKNOWN, compare_plain, write_targets
from benchmarks.reports import Report, Reports, Row, read_reports

PAGE = ROOT / "docs" / "performance.md"
README = ROOT / "README.md"
RESULTS = ROOT / "docs" / "results" / "performance"


def write_page(page: str, reports: Reports) -> str:
    """The page with all that stands between its markers written anew."""
    page = replace_between(page, "TARGETS", write_targets(reports) + "\n")
    for name in TABLES:
        page = replace_between(page, name.upper(), write_section(name, reports))
    return page


def write_section(name: str, reports: Reports) -> str:
    """A benchmark's tables, after how they were made and who was not there."""
    if not reports.rows(name):
        return f"{UNKNOWN}\n"
    runs = "\n".join(_describe_run(report) for report in reports.of(name))
    missing = "".join(f"- not here: {peer} ({reason})\n" for peer, reason in reports.missing_peers(name).items())
    return f"{runs}\n{missing}\n{TABLES[name](reports)}\n"


def _describe_run(report: Report) -> str:
    where = report.environment
    threads = report.settings.get("torch_threads", where["threads"])
    machine = (
        f"{where['cpu']}, {where['cores']} cores, {where['device']}, torch {where['torch_version']}, torch threads {_tell_threads(threads)}"
    )
    revision = str(where["git_revision"])[:10]
    link = f"[rows](results/performance/{report.path.name})"
    return (
        f"- `{where['command']}`, {str(where['date'])[:10]}, {machine}, load {where['load_1min']} at its end, revision {revision}; {link}"
    )


def _tell_threads(threads: object) -> str:
    if not isinstance(threads, dict):
        return str(threads)
    return f"{threads['ours']} (ours), {' and '.join(map(str, threads['peers']))} (peers)"


def write_summary(reports: Reports) -> str:
    """What the README says: a line for each benchmark that was taken."""
    lines = [*_tell_adapt(reports), *_tell_train(reports), *_tell_predict(reports), *_tell_serve(reports)]
    return "\n".join([*(f"- {line}" for line in lines), ""]) if lines else f"{UNKNOWN}\n"


def _tell_adapt(reports: Reports) -> list[str]:
    rows = reports.rows("adapt", method="maml", backbone="conv4-64 stride", shot=1, lanes=16)
    return [
        f"MAML, 5-way 1-shot, five steps, 16 tasks together: {show(row['ours'] / 16)} ms a task, {row['ratio']:.2f} times as fast as the "
        f"fastest of {', '.join(sorted(row['peers']))}, its arithmetic at {_tell_shares(row)}."
        for row in rows
        if row["ratio"] is not None
    ]


def _tell_shares(row: Row) -> str:
    """As far as it was measured."""
    shares = {"of the rate of a large matrix product": row["limit_fraction"], "of the arithmetic peak": row.get("peak_fraction")}
    return " and ".join(f"{show_share(share)} {bound}" for bound, share in shares.items() if share is not None)


def _tell_train(reports: Reports) -> list[str]:
    rows = reports.rows("train", backbone="conv4-64 stride")
    return [
        f"Meta-training by second-order MAML, 16 tasks: {show(row['details']['steps_per_s'])} steps a second, {row['ratio']:.2f} times as "
        "many as the fastest peer."
        for row in rows
        if row["ratio"] is not None
    ]


def _tell_predict(reports: Reports) -> list[str]:
    rows = reports.rows("predict", initializer="omniglot-maml", callers=64, resident_tasks=2000)
    return [
        f"2,000 tasks resident: {show(row['ours'])} queries a second through the engine, {show_share(row['details']['lost_from_5_tasks'])} "
        "fewer than with 5."
        for row in rows
    ]


def _tell_serve(reports: Reports) -> list[str]:
    alone = reports.rows("serve", **EMBEDDED, workload="predict", clients=1)
    lines = [
        f"A prediction over HTTP, one client: p50 {show(row['details']['contenders']['ours']['predict']['p50_ms'])} ms." for row in alone
    ]
    for workload, work in (("predict", "predictions"), ("adapt", "adaptations")):
        rows = reports.rows("serve", **EMBEDDED, workload=workload, clients=64)
        ratios = compare_plain(reports, workload).values()
        lines += [
            f"64 clients with a task each: {show(row['ours'])} {work} a second, {ratio:.2f} times those of a plain FastAPI endpoint."
            for row, ratio in zip(rows, ratios, strict=False)
        ]
    return lines


def main(results: Annotated[Path, typer.Argument(help="Folder of the benchmarks' JSON.")] = RESULTS) -> None:
    """Replaces the measured parts of both pages."""
    reports = read_reports(results)
    PAGE.write_text(write_page(PAGE.read_text(), reports))
    README.write_text(replace_between(README.read_text(), "SPEED", write_summary(reports)))


if __name__ == "__main__":
    typer.run(main)
