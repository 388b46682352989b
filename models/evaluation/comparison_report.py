"""What a comparison leaves in a folder: `DATA.json` with the rows, `DATA.md` with a table, `DATA.png` with a plot."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import torch

from models.errors import CheckpointCorrupt, InvalidOptions
from models.evaluation.comparison import Row
from models.training.provenance import describe_hardware


def read_rows(folder: Path, data: str) -> list[Row]:
    """The rows of an earlier comparison in `folder`, or none. Raises CheckpointCorrupt."""
    path = folder / f"{data}.json"
    if not path.exists():
        return []
    try:
        rows: list[Row] = json.loads(path.read_bytes())["rows"]
    except (ValueError, KeyError, TypeError) as fault:
        raise CheckpointCorrupt(f"{path} is no comparison of this program ({fault!r}); delete it, or choose another --out") from fault
    return rows


def write_comparison(folder: Path, data: str, rows: Sequence[Row], command: str) -> Path:
    """Writes the three files, and returns the JSON's path. Raises InvalidOptions when there is nothing to write."""
    if not rows:
        raise InvalidOptions(f"no initializer reads what {data} gives; nothing was compared")
    folder.mkdir(parents=True, exist_ok=True)
    report = {
        "data": data,
        "date": datetime.now(UTC).date().isoformat(),
        "hardware": describe_hardware("cpu"),
        "torch_version": str(torch.__version__),
        "command": command,
        "rows": list(rows),
    }
    path = folder / f"{data}.json"
    path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    (folder / f"{data}.md").write_text(tabulate(rows) + "\n", encoding="utf-8")
    draw(folder / f"{data}.png", data, rows)
    return path


def tabulate(rows: Sequence[Row]) -> str:
    """A Markdown table: initializers down, settings across, the figure for one query at a time with its 95 % interval."""
    settings = list(dict.fromkeys(_heading(row) for row in rows))
    names = sorted({row["initializer"] for row in rows}, key=lambda name: _rank(rows, name))
    cells = {(row["initializer"], _heading(row)): _figure(row) for row in rows}
    lines = [["initializer", *settings]] + [[f"`{name}`", *(cells.get((name, setting), "-") for setting in settings)] for name in names]
    rule = ["---", *("--:" for _ in settings)]
    return "\n".join("| " + " | ".join(line) + " |" for line in [lines[0], rule, *lines[1:]])


def draw(path: Path, data: str, rows: Sequence[Row]) -> None:
    """A panel for each setting: every initializer's figure as a point with its interval, best at the top."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # a second to import, and only wanted here
    from matplotlib.figure import Figure

    settings = list(dict.fromkeys(_heading(row) for row in rows))
    names = sorted({row["initializer"] for row in rows}, key=lambda name: _rank(rows, name), reverse=True)
    figure = Figure(figsize=(2.6 * len(settings) + 2, 0.28 * len(names) + 1.6), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, setting in zip(figure.subplots(1, len(settings), sharey=True, squeeze=False)[0], settings, strict=True):
        shown = [row for row in rows if _heading(row) == setting and "ci95" in row]
        places = [names.index(row["initializer"]) for row in shown]
        axes.errorbar([_value(row) for row in shown], places, xerr=[row["ci95"] for row in shown], fmt="o", markersize=4, capsize=2)
        axes.set(title=setting, xlabel="accuracy, %" if any("accuracy" in row for row in shown) else "MSE")
        axes.set_yticks(range(len(names)), names)
        axes.grid(axis="x", alpha=0.3)
    figure.suptitle(f"{data}: test classes, one query at a time, 95 % intervals")
    figure.savefig(path, dpi=110)


def _heading(row: Row) -> str:
    if row["way"]:
        return f"{row['way']}-way {row['shot']}-shot"
    return f"{row['shot']}-shot, {row['steps']} step{'s' if row['steps'] != 1 else ''}" if row["steps"] else f"{row['shot']}-shot"


def _value(row: Row) -> float:
    return float(row["accuracy"] if "accuracy" in row else row.get("mse", math.nan))


def _figure(row: Row) -> str:
    if "ci95" not in row:
        return f"diverged in {row['diverged_episodes']}"
    digits = 2 if "accuracy" in row else 3
    return f"{_value(row):.{digits}f} ± {row['ci95']:.{digits}f}"


def _rank(rows: Sequence[Row], name: str) -> tuple[float, str]:
    """Best first: by the mean over settings of the accuracy, or of the error."""
    values = [_value(row) * (-1 if "accuracy" in row else 1) for row in rows if row["initializer"] == name and "ci95" in row]
    return (sum(values) / len(values) if values else float("inf"), name)
