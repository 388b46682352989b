"""Writes the measured tables of the README from what the programs printed and the cards say; no number is typed by hand.

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

from models.artifact import Card, list_bundled, read_card
from models.training.provenance import describe_hardware

README = Path(__file__).parent.parent / "README.md"
BEGIN, END = "<!-- MEASURED: begin", "<!-- MEASURED: end -->"


def read_last_object(path: Path) -> dict[str, Any]:
    """The JSON object in a program's last line."""
    result: dict[str, Any] = json.loads(path.read_text().strip().splitlines()[-1])
    return result


def tabulate(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table, numbers to the right."""
    rule = ["---", *("--:" for _ in header[1:])]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [header, rule, *rows])


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
    return tabulate(["one client over HTTP, 5-way 1-shot; one query", "p50", "p95", "p99"], rows)


def tabulate_cards(cards: list[Card]) -> str:
    """The accuracy tables of the cards: test classes, one query at a time."""
    rows = [[f"`{card.name}`", describe_setting(row), *describe_figures(row)] for card in cards for row in card.accuracy]
    return tabulate(["test classes of the training data", "setting", "one query at a time", "all at once"], rows)


def describe_setting(row: dict[str, Any]) -> str:
    """`5-way 1-shot`, or shots and steps for regression."""
    return f"{row['n_way']}-way {row['k_shot']}-shot" if row["n_way"] else f"{row['k_shot']}-shot, {row['steps']} steps"


def describe_figures(row: dict[str, Any]) -> tuple[str, str]:
    """The figure with its 95 % interval, and the transductive one, which is equal where nothing looks at the query batch."""
    if "accuracy" in row:
        return f"{row['accuracy']:.2f} ± {row['ci95']:.2f} %", f"{row['accuracy_transductive']:.2f} %"
    return f"{row['mse']:.3f} ± {row['ci95']:.3f} MSE", f"{row['mse_transductive']:.3f} MSE"


def write_section(demo: dict[str, Any], latency: dict[str, Any], cards: list[Card]) -> str:
    """All that stands between the markers."""
    machine = f"{describe_hardware('cpu').partition(',')[0]}, {os.cpu_count()} cores, no GPU, {datetime.now(UTC):%Y-%m-%d}"
    return f"""Measured ({machine}; `make demo ONCE=1 JSON=1`, `python -m benchmarks.http_latency`):

{tabulate_demo(demo)}

{tabulate_latency(latency)}

How good the bundled initializers are on classes (or curves) they have not seen (`innerloop evaluate`, 1,000 episodes, 95 % intervals;
Omniglot, Vinyals split, rotated classes included):

{tabulate_cards(cards)}
"""


def main(demo: Annotated[Path, typer.Argument()], latency: Annotated[Path, typer.Argument()]) -> None:
    """Replaces the measured section of the README."""
    before, _, rest = README.read_text().partition(BEGIN)
    marker, _, rest = rest.partition("-->\n")
    _, _, after = rest.partition(END)
    cards = [read_card(folder) for folder in list_bundled()]
    section = write_section(read_last_object(demo), read_last_object(latency), cards)
    README.write_text(f"{before}{BEGIN}{marker}-->\n{section}{END}{after}")


if __name__ == "__main__":
    typer.run(main)
