"""What benchmarks left: the JSON objects of `innerloop benchmark NAME`, a file each; several may be parts of one benchmark."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Row = Mapping[str, Any]
"""A row as JSON: settings, unit, ours, peers, ratio, limit_fraction, peak_fraction (not in the oldest files), details."""


@dataclass(frozen=True)
class Report:
    """One run of one benchmark, and the file that it was left in."""

    path: Path
    benchmark: str
    environment: Mapping[str, Any]
    settings: Mapping[str, Any]
    missing_peers: Mapping[str, str]
    rows: list[Row]


@dataclass(frozen=True)
class Reports:
    """All that was measured, the oldest run first."""

    reports: list[Report]

    def of(self, benchmark: str) -> list[Report]:
        """The runs of one benchmark."""
        return [report for report in self.reports if report.benchmark == benchmark]

    def rows(self, benchmark: str, **settings: Any) -> list[Row]:
        """The rows whose settings have these values, smallest settings first; of two with the same settings the one measured last."""
        found = {json.dumps(row["settings"], sort_keys=True): row for report in self.of(benchmark) for row in report.rows}
        chosen = [row for row in found.values() if settings.items() <= row["settings"].items()]
        return sorted(chosen, key=lambda row: [_sortable(value) for value in row["settings"].values()])

    def missing_peers(self, benchmark: str) -> Mapping[str, str]:
        """Who did not take part in any run, and why."""
        present = {name for row in self.rows(benchmark) for name in row["peers"]}
        missing = {name: reason for report in self.of(benchmark) for name, reason in report.missing_peers.items()}
        return {name: reason for name, reason in missing.items() if name not in present}


def name_peers(rows: Sequence[Row]) -> list[str]:
    """Who stands beside us in any of the rows: a column each."""
    return list(dict.fromkeys(peer for row in rows for peer in sorted(row["peers"])))


def read_reports(folder: Path) -> Reports:
    """Every file of the folder, whose last line is the object. Raises SystemExit for a smoke run: its figures mean nothing."""
    reports = [_read_report(path) for path in sorted(folder.glob("*.json"))]
    for report in reports:
        if report.settings["quick"]:
            raise SystemExit(f"{report.path} is a smoke run (--quick); measure without it")
    return Reports(sorted(reports, key=lambda report: str(report.environment["date"])))


def write_report(path: Path, report: Mapping[str, Any]) -> None:
    """Puts the report where an earlier one may be; whoever reads meets one of them whole. Raises OSError."""
    fresh = path.with_name(path.name + ".partial")
    fresh.write_text(json.dumps(report, allow_nan=False) + "\n")
    fresh.replace(path)


def read_last_object(path: Path) -> dict[str, Any]:
    """The JSON object in a program's last line."""
    result: dict[str, Any] = json.loads(path.read_text().strip().splitlines()[-1])
    return result


def _read_report(path: Path) -> Report:
    read = read_last_object(path)
    return Report(path, read["benchmark"], read["environment"], read["settings"], read["missing_peers"], read["rows"])


def _sortable(value: Any) -> tuple[bool, float, str]:
    is_text = isinstance(value, str)
    return is_text, 0.0 if is_text else float(value), str(value)
