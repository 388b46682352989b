"""What was set out for, beside what was measured. A target is reached where every setting that it speaks of reaches it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from benchmarks.figures import NOTHING
from benchmarks.markdown import tabulate
from benchmarks.performance_tables import METHODS, find_growth, name_adapt
from benchmarks.reports import Reports, Row
from benchmarks.setting_names import Name, count, tell_chosen

NO_GPU = "not measured: no GPU was available"
UNKNOWN = "not measured yet"
FULL = ("maml", "fomaml", "reptile", "metasgd", "boil", "mamlpp", "imaml", "protomaml", "learned-optimizer")
"""Methods that fine-tune the whole network."""
HEAD = ("anil", "protonet")
"""Methods that adapt nothing but a head of a few vectors."""
PLAIN = "plain endpoint"
EMBEDDED = {"deployment": "embedded", "loop": "closed"}
"""The settings that targets over HTTP speak of: one process, as the plain endpoint is."""
Figures = Mapping[Name, float]


@dataclass(frozen=True)
class Target:
    """`find` gives a figure for each setting; on a CPU it must be `bound` at least, or at most. asked_of_gpu: in words."""

    name: str
    bound: float
    at_least: bool
    find: Callable[[Reports], Figures]
    write: Callable[[float], str]
    asked_of_gpu: str = "the same"

    def is_reached(self, figure: float) -> bool:
        """Whether one setting's figure is good enough."""
        return figure >= self.bound if self.at_least else figure <= self.bound

    def tell(self, reports: Reports) -> list[str]:
        """Its line in the table."""
        figures = self.find(reports)
        asked = f"{'≥' if self.at_least else '≤'} {self.write(self.bound)}"
        return [self.name, asked, self._tell_measured(figures), self._tell_verdict(figures), self.asked_of_gpu, NO_GPU]

    def _tell_measured(self, figures: Figures) -> str:
        worst, best = sorted((min(figures.values(), default=0.0), max(figures.values(), default=0.0)), reverse=not self.at_least)
        if not figures:
            return NOTHING
        return self.write(worst) if len(figures) == 1 else f"{self.write(worst)} to {self.write(best)}"

    def _tell_verdict(self, figures: Figures) -> str:
        if not figures:
            return UNKNOWN
        missed = {name: not self.is_reached(figure) for name, figure in figures.items()}
        if not any(missed.values()):
            return "reached"
        if all(missed.values()):
            return "**missed**"
        return f"**missed** in {sum(missed.values())} of {len(figures)}: {tell_chosen(missed)}"


def write_targets(reports: Reports) -> str:
    """The table."""
    header = ["target", "CPU", "measured (worst to best setting)", "CPU: verdict", "GPU", "GPU: verdict"]
    return tabulate(header, [target.tell(reports) for target in list_targets()])


def list_targets() -> list[Target]:
    """All of them; adapting and cached predictions with a line for each kind."""
    adapting = [target for method in METHODS for target in _list_adapt_targets(method)]
    return [*adapting, *_list_other_targets()]


def _list_adapt_targets(method: str) -> list[Target]:
    def ratios(lanes: int) -> Callable[[Reports], Figures]:
        return lambda reports: _pick(reports, method, lanes, lambda row: row["ratio"])

    def limits(reports: Reports) -> Figures:
        return _pick(reports, method, 16, lambda row: row["limit_fraction"])

    def growth(reports: Reports) -> Figures:
        return {name: times for name, times in find_growth(reports).items() if name[0] == method}

    return [
        Target(f"adapt, {method}, 16 lanes, against the fastest peer", 2, True, ratios(16), _times, "≥ 10x at 64 lanes"),
        Target(f"adapt, {method}, 16 lanes, of the limit", 0.5, True, limits, _percent, NOTHING),
        Target(f"adapt, {method}, 1 lane, against the fastest peer", 1.3, True, ratios(1), _times, "≥ 3x, ≤ 3 ms"),
        Target(f"adapt, {method}, 64 lanes against 1 lane, time", 64 / 1.5, False, growth, _times, "≤ 2x"),
    ]


def _pick(reports: Reports, method: str, lanes: int, read: Callable[[Row], float | None]) -> Figures:
    rows = reports.rows("adapt", method=method, lanes=lanes)
    return {name_adapt(row): figure for row in rows if (figure := read(row)) is not None}


def _list_other_targets() -> list[Target]:
    return [
        Target("meta-training step, against the fastest peer", 2, True, _train_ratios, _times, "≥ 5x"),
        Target("predict, throughput lost from 5 to 2,000 resident tasks", 0.055, False, _predict_losses, _percent),
        Target("prediction over HTTP, 1 client, p50", 2.2, False, _predict_p50_ms, _milliseconds),
        Target(
            "predictions/s over HTTP, 64 clients, to the plain endpoint", 3, True, lambda reports: compare_plain(reports, "predict"), _times
        ),
        Target(
            "adaptations/s over HTTP, 64 clients, to the plain endpoint",
            2.5,
            True,
            lambda reports: compare_plain(reports, "adapt"),
            _times,
            "≥ 10x",
        ),
        Target("p99 past the cache, to p99 inside it", 2, False, _cache_slowdowns, _times),
        Target("full fine-tune in Redis, of float32 weights", 0.5, False, _full_shares, _percent, NOTHING),
        Target("full fine-tune in Redis, error of the logits", 1e-3, False, _full_errors, lambda error: f"{error:.2g}", NOTHING),
        Target("head-only state in Redis", 4096, False, _head_bytes, lambda size: f"{size:,.0f} bytes", NOTHING),
    ]


def _train_ratios(reports: Reports) -> Figures:
    return {(row["settings"]["backbone"],): row["ratio"] for row in reports.rows("train") if row["ratio"] is not None}


def _predict_losses(reports: Reports) -> Figures:
    rows = reports.rows("predict", resident_tasks=2000)
    return {
        (row["settings"]["initializer"], count(row["settings"]["callers"], "caller")): row["details"]["lost_from_5_tasks"] for row in rows
    }


def _predict_p50_ms(reports: Reports) -> Figures:
    rows = reports.rows("serve", **EMBEDDED, workload="predict", clients=1)
    return {_name_load(row): row["details"]["contenders"]["ours"]["predict"]["p50_ms"] for row in rows}


def compare_plain(reports: Reports, workload: str) -> Figures:
    """Our requests/s to those of the plain endpoint, with the threads that suit it best, at 64 clients."""
    rows = reports.rows("serve", **EMBEDDED, workload=workload, clients=64)
    plain = [max((rate for name, rate in row["peers"].items() if name.startswith(PLAIN)), default=None) for row in rows]
    return {_name_load(row): row["ours"] / rate for row, rate in zip(rows, plain, strict=True) if rate}


def _name_load(row: Row) -> Name:
    return row["settings"]["workload"], count(row["settings"]["clients"], "client")


def _cache_slowdowns(reports: Reports) -> Figures:
    rows = [row for row in reports.rows("cache") if row["settings"]["working_set"] > 1 and row["ratio"]]
    return {_name_cache(row): 1 / row["ratio"] for row in rows}


def _name_cache(row: Row) -> Name:
    settings = row["settings"]
    return settings["store"], count(settings["callers"], "caller"), settings["pattern"], f"{settings['working_set']:g}x"


def _full_shares(reports: Reports) -> Figures:
    return {name: row["ours"] / next(iter(row["peers"].values())) for name, row in _find_states(reports, FULL).items()}


def _full_errors(reports: Reports) -> Figures:
    return {name: row["details"]["answer_error"] for name, row in _find_states(reports, FULL).items()}


def _head_bytes(reports: Reports) -> Figures:
    return {name: row["ours"] for name, row in _find_states(reports, HEAD).items()}


def _find_states(reports: Reports, methods: tuple[str, ...]) -> Mapping[Name, Row]:
    rows = reports.rows("memory", where="redis")
    return {(f"`{row['settings']['initializer']}`",): row for row in rows if row["settings"]["method"] in methods}


def _times(ratio: float) -> str:
    return f"{ratio:.1f}x" if ratio >= 10 else f"{ratio:.2f}x"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _milliseconds(span_ms: float) -> str:
    return f"{span_ms:.2f} ms"
