"""What every benchmark keeps to, so that one command runs them all and one reader understands their JSON.

A benchmark is a module `benchmarks/NAME.py` with one function `run(plan: Plan) -> Findings`; being there is all it takes to be known to
`innerloop benchmark NAME [--json] [--out FILE] [--quick] [--threads N] [--device D]`. Inside it:

    def run(plan: Plan) -> Findings:
        check_that_all_compute_the_same()                          # raise Disagreement, and nothing is timed
        timings = time_paired({"ours": ours, "plain loop": loop}, repetitions=plan.repetitions(30), device=plan.device)
        row = timings.to_row({"lanes": 16})                        # or make_row(...) for figures of your own
        plan.report(row)                                           # people see it, and it is kept, while the others are measured
        return Findings([row])

A number is only worth something beside another of the same run: contenders are timed in turn, and the ratio is the row's result.
No test may judge an absolute time. `--quick` is a smoke run: smallest settings, one or two repetitions, a few seconds.
"""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, TypeVar

import torch

from benchmarks.catalogue import Refused, check_name
from benchmarks.environment import describe_environment

Setting = TypeVar("Setting")

OURS = "ours"


class Disagreement(Refused):
    """Contenders that should compute the same do not: their times would not be comparable, so there are none."""


def _stay_silent(_: object) -> None:
    """Reports nothing."""


@dataclass(frozen=True)
class Plan:
    """How a benchmark is to be run. Threads are set before `run` is called; device is cpu or cuda:N.

    service_threads: torch threads of a service under test; 0 leaves it its own default, as whoever starts it would
    only: an expression that the name of a setting must match, for a benchmark that has many
    report: to be called with each row when it is there, so that a long run shows what it has found
    """

    quick: bool = False
    threads: int = 1
    device: str = "cpu"
    only: str = ""
    service_threads: int = 0
    report: Callable[[Row], None] = _stay_silent

    def choose(self, settings: Sequence[Setting]) -> list[Setting]:
        """Those whose name (their `str`) matches `only`. Raises Refused when none does, or when it is no expression."""
        try:
            chosen = [setting for setting in settings if re.search(self.only, str(setting))]
        except re.error as error:
            raise Refused(f"--only: expected a regular expression, got {self.only!r}: {error}") from None
        if not chosen:
            raise Refused(f"no setting matches {self.only!r}; there are: {'; '.join(map(str, settings))}")
        return chosen

    def repetitions(self, thorough: int) -> int:
        """So many, or two for a smoke run."""
        return 2 if self.quick else thorough


@dataclass(frozen=True)
class Row:
    """One measurement in one setting. Made by `make_row` or `Timings.to_row`.

    ours, peers: in `unit`; of a rate (a unit that ends in /s) more is better, of anything else less
    ratio: ours to the fastest peer, above one where we are faster; None without peers
    limit_fraction: the share of what would be done at the rate of a large matrix product, above one where ours is the better arithmetic
    peak_fraction: the share of what bare multiply-adds in registers would do, above one where ours takes fewer; either is None where it is
    not known
    details: whatever else helps to read the row, such as the spread
    """

    settings: Mapping[str, Any]
    unit: str
    ours: float
    peers: Mapping[str, float]
    ratio: float | None
    limit_fraction: float | None = None
    peak_fraction: float | None = None
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Findings:
    """What `run` returns. settings: common to all rows; missing_peers: name and why it could not take part."""

    rows: Sequence[Row]
    settings: Mapping[str, Any] = field(default_factory=dict)
    missing_peers: Mapping[str, str] = field(default_factory=dict)


def make_row(
    settings: Mapping[str, Any],
    unit: str,
    ours: float,
    peers: Mapping[str, float],
    *,
    limit_fraction: float | None = None,
    peak_fraction: float | None = None,
    **details: Any,
) -> Row:
    """A row from figures; the ratio is theirs. Use `Timings.to_row` for paired times: the median of paired ratios is better."""
    ratio = None
    if peers:
        ratio = ours / max(peers.values()) if unit.endswith("/s") else min(peers.values()) / ours
    return Row(settings, unit, ours, peers, ratio, limit_fraction, peak_fraction, details)


def measure_all(
    plan: Plan, settings: Sequence[Setting], measure: Callable[[Setting, Plan], tuple[Row, Mapping[str, str]]]
) -> tuple[list[Row], dict[str, str]]:
    """The rows of the settings that `plan` chooses, each reported when it is there, and why peers are missing from any of them."""
    rows, missing = list[Row](), dict[str, str]()
    for setting in plan.choose(settings):
        row, absent = measure(setting, plan)
        plan.report(row)
        rows.append(row)
        missing.update(absent)
    return rows, missing


def run_benchmark(name: str, plan: Plan, command: str, keep: Callable[[Mapping[str, Any]], None] = _stay_silent) -> dict[str, Any]:
    """Runs one benchmark with the plan's threads and returns its report, ready for JSON. Raises Refused.

    keep: to be called with the report as far as it is there, with every row anew: a run that is stopped has not measured in vain. Until
    the end it says `unfinished` among its settings.
    """
    check_name(name)
    torch.set_num_threads(plan.threads)
    run: Callable[[Plan], Findings] = importlib.import_module(f"benchmarks.{name}").run
    rows = list[Row]()

    def describe(findings: Findings) -> dict[str, Any]:
        return {
            "benchmark": name,
            "environment": describe_environment(plan.threads, plan.device, command),
            "settings": {"quick": plan.quick, **findings.settings},
            "missing_peers": dict(findings.missing_peers),
            "rows": [asdict(row) for row in findings.rows],
        }

    def note(row: Row) -> None:
        rows.append(row)
        plan.report(row)
        keep(describe(Findings(rows, {"unfinished": True})))

    report = describe(run(replace(plan, report=note)))
    keep(report)
    return report


def to_line(report: Mapping[str, Any]) -> str:
    """The report as one line of JSON. Raises ValueError on a number that JSON does not have."""
    return json.dumps(report, allow_nan=False)


def to_sentence(row: Row) -> str:
    """The row for people, on one line."""
    unit, settings = row.unit, " ".join(f"{name}={value}" for name, value in row.settings.items())
    peers = "".join(f"; {name} {value:.4g} {unit}" for name, value in row.peers.items())
    ratio = "" if row.ratio is None else f" | {row.ratio:.2f}x the fastest peer"
    limit = "" if row.limit_fraction is None else f" | {100 * row.limit_fraction:.0f} % of the limit"
    peak = "" if row.peak_fraction is None else f" | {100 * row.peak_fraction:.0f} % of the peak"
    return f"{settings}: ours {row.ours:.4g} {unit}{peers}{ratio}{limit}{peak}"
