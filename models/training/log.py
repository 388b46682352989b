"""The training log: one CSV row per window of steps, and the learning curve as a PNG."""

from __future__ import annotations

import csv
import math
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import Self

LOG_FILE = "log.csv"
CURVE_FILE = "curve.png"


@dataclass(frozen=True)
class LogRow:
    """Means over the steps since the row before; the validation columns are filled where validation ran."""

    step: int
    loss: float
    accuracy: float | None
    learning_rate: float
    seconds: float
    validation: float | None = None
    validation_ci95: float | None = None


class TrainingLog:
    """Appends rows to `log.csv`. Opened at `position`, it drops what a stopped run wrote after its checkpoint."""

    def __init__(self, folder: Path, position: int) -> None:
        self._file = (folder / LOG_FILE).open("r+" if position else "w", encoding="utf-8", newline="")
        self._file.seek(position)
        self._file.truncate()
        self._writer = csv.writer(self._file)
        if position == 0:
            self._writer.writerow(field.name for field in fields(LogRow))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None) -> None:
        self._file.close()

    def append(self, row: LogRow) -> None:
        """Writes a row and flushes it, so that a reader sees it at once."""
        values = asdict(row).values()
        self._writer.writerow("" if value is None else f"{value:.6g}" if isinstance(value, float) else value for value in values)
        self._file.flush()

    @property
    def position(self) -> int:
        """Bytes written so far."""
        self._file.flush()
        return self._file.tell()


def read_log(folder: Path) -> list[LogRow]:
    """The rows of a log."""

    def number(text: str) -> float | None:
        return float(text) if text else None

    with (folder / LOG_FILE).open(encoding="utf-8", newline="") as file:
        return [
            LogRow(
                step=int(row["step"]),
                loss=float(row["loss"]),
                accuracy=number(row["accuracy"]),
                learning_rate=float(row["learning_rate"]),
                seconds=float(row["seconds"]),
                validation=number(row["validation"]),
                validation_ci95=number(row["validation_ci95"]),
            )
            for row in csv.DictReader(file)
        ]


def draw_curve(folder: Path, title: str) -> Path:
    """Draws `curve.png` from the log: the meta-loss, and the validation score beside it."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # a second to import, and only wanted here
    from matplotlib.figure import Figure

    rows = read_log(folder)
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.plot([row.step for row in rows], [row.loss for row in rows], color="tab:blue", linewidth=1)
    axes.set(xlabel="meta-step", title=title)
    axes.set_ylabel("meta-loss (log scale)", color="tab:blue")
    axes.set_yscale("log")
    judged = [(row.step, row.validation) for row in rows if row.validation is not None and math.isfinite(row.validation)]
    if judged:
        beside = axes.twinx()
        beside.plot([step for step, _ in judged], [score for _, score in judged], color="tab:orange", marker=".")
        beside.set_ylabel("validation, accuracy % or MSE", color="tab:orange")
    path = folder / CURVE_FILE
    figure.savefig(path, dpi=120)
    return path
