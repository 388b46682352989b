"""What a person sees of a training: a progress bar on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from models.training.log import LogRow

REFRESH_S = 0.2
LINE_EVERY_S = 10.0


class Display:
    """Shows steps, loss, accuracy, tasks per second and the time left. Costs microseconds a step."""

    def __init__(self, console: Console, name: str, step: int, steps: int, tasks_per_step: float) -> None:
        self._console = console
        self._first, self._steps, self._tasks_per_step = step, steps, tasks_per_step
        self._started = self._shown = self._lined = time.monotonic()
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[figures]}"))
        self._bar = Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console, disable=not console.is_terminal)
        self._row = self._bar.add_task(name, total=steps, completed=step, figures="")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None) -> None:
        self._bar.stop()

    def show_step(self, step: int, loss: float, accuracy: float) -> None:
        """The smoothed figures after a step."""
        now = time.monotonic()
        if now - self._shown < REFRESH_S and step < self._steps:
            return
        self._shown = now
        figures = self._describe(step, loss, accuracy, now)
        self._bar.update(self._row, completed=step, figures=figures)
        if not self._console.is_terminal and (now - self._lined >= LINE_EVERY_S or step == self._steps):
            self._lined = now
            left_s = (self._steps - step) * (now - self._started) / max(1, step - self._first)
            self._console.print(f"step {step}/{self._steps}  {figures}  {left_s:.0f} s left", highlight=False, soft_wrap=True)

    def show_validation(self, row: LogRow, unit: str) -> None:
        """The validation figure, on a line of its own."""
        if row.validation is not None and row.validation_ci95 is not None:
            text = f"step {row.step}  validation {row.validation:.4g} ± {row.validation_ci95:.2g} {unit}"
            self._console.print(text, highlight=False, soft_wrap=True)

    def _describe(self, step: int, loss: float, accuracy: float, now: float) -> str:
        rate = (step - self._first) * self._tasks_per_step / max(1e-9, now - self._started)
        shown = "" if accuracy != accuracy else f"  accuracy {100 * accuracy:.1f} %"
        return f"loss {loss:.4f}{shown}  {rate:.0f} tasks/s"
