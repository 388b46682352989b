"""Writes the measured tables of the README from what the programs printed and left; no number is typed by hand.

innerloop compare; innerloop compare --data digits; innerloop compare --data sinusoid
python -m benchmarks.readme_tables
make demo ONCE=1 JSON=1 > demo.txt
python -m benchmarks.http_latency > latency.txt
python -m benchmarks.readme_tables demo.txt latency.txt
"""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.markdown import replace_between, tabulate
from benchmarks.reports import read_last_object
from models.training.provenance import describe_hardware

README = Path(__file__).parent.parent / "README.md"
RESULTS = README.parent / "docs" / "results"
DATA = {
    "omniglot": "Omniglot, test classes of the Vinyals split and their rotations, accuracy in percent",
    "digits": "Handwritten digits of scikit-learn, which nothing here was trained on, accuracy in percent",
    "icons": "Icons drawn by 20 to 73 designers each, accuracy in percent",
    "emoji": "Emoji in 8 or 9 styles each, accuracy in percent",
    "sinusoid": "Sinusoids, mean squared error",
}
"""What the figures of each comparison are."""


def tabulate_demo(demo: dict[str, Any]) -> str:
    """The demo's table: accuracy with its interval, and what a client waits for."""
    rows = [
        [
            f"`{row['initializer']}`",
            f"{row['way']}-way {row['shot']}-shot",
            f"{row['accuracy']:.1f} ± {row['ci95']:.1f} %",
            f"{row['adapt_ms']:.0f} ms",
            f"{row['predict_ms']:.0f} ms",
        ]
        for row in demo["rows"]
    ]
    return tabulate(["handwritten digits, never trained on", "examples", "200 held-out digits", "adapt", "predict all 200"], rows)


def tabulate_latency(latency: dict[str, Any]) -> str:
    """One client, one request at a time."""
    rows = [
        [f"{row['what']}, `{row['initializer']}`", *(f"{row[name]:.1f} ms" for name in ("p50_ms", "p95_ms", "p99_ms"))]
        for row in latency["rows"]
    ]
    return tabulate(["one Python client over HTTP, whose own time is in it; 5-way 1-shot, one query", "p50", "p95", "p99"], rows)


def write_results(folder: Path = RESULTS) -> str:
    """All that stands between the markers of the results: the tables that `innerloop compare` left, and how they were made."""
    reports = {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}
    parts = []
    for name, report in reports.items():
        made = f"`innerloop compare --data {name}`, {report['rows'][0]['episodes']:,} episodes a setting, {report['date']}"
        parts.append(f"**{DATA.get(name, name)}** ({made}; [rows](docs/results/{name}.json))\n")
        parts.append((folder / f"{name}.md").read_text() + f"\n![The same as a plot](docs/results/{name}.png)\n")
    return "\n".join(parts)


def write_section(demo: dict[str, Any], latency: dict[str, Any]) -> str:
    """All that stands between the markers of what was measured."""
    machine = f"{describe_hardware('cpu').partition(',')[0]}, {os.cpu_count()} cores, no GPU, {datetime.now(UTC):%Y-%m-%d}"
    return f"""Measured ({machine}; `make demo ONCE=1 JSON=1`, `python -m benchmarks.http_latency`):

{tabulate_demo(demo)}

{tabulate_latency(latency)}
"""


def main(demo: Annotated[Path | None, typer.Argument()] = None, latency: Annotated[Path | None, typer.Argument()] = None) -> None:
    """Replaces the results of the README, and with the outputs of both programs also what was measured."""
    text = replace_between(README.read_text(), "RESULTS", write_results())
    if demo and latency:
        text = replace_between(text, "MEASURED", write_section(read_last_object(demo), read_last_object(latency)))
    README.write_text(text)


if __name__ == "__main__":
    typer.run(main)
