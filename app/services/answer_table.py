"""The engine's answers with the names of their columns: what they are as arrays, and one by one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import overload

from app.domain import Array, Label, Prediction

_FEW_ROWS = 32


@dataclass(frozen=True, eq=False)
class AnswerTable(Sequence[Prediction]):
    """Values and unknown of `Answers`, and what the columns of the values are; a row becomes a `Prediction` when it is asked for.

    classes: in the order of the columns; empty for regression.
    """

    values: Array
    classes: tuple[str, ...] = ()
    unknown: Array | None = None

    def rows(self) -> Iterator[tuple[Label, list[float], float | None]]:
        """Of each query the label (the likeliest class, or the value), its row of values, and how likely it is of no class."""
        rows = self.values.tolist()
        unknown = [None] * len(rows) if self.unknown is None else self.unknown.tolist()
        labels = [self.classes[i] for i in self._find_likeliest(rows)] if self.classes else [row[0] for row in rows]
        return zip(labels, rows, unknown, strict=True)

    def _find_likeliest(self, rows: list[list[float]]) -> list[int]:
        # numpy gives the interpreter away, and under load another thread has it then: that is worth it for many rows only.
        if len(rows) < _FEW_ROWS:
            return [row.index(max(row)) for row in rows]
        likeliest: list[int] = self.values.argmax(axis=1).tolist()
        return likeliest

    def __len__(self) -> int:
        return len(self.values)

    def __iter__(self) -> Iterator[Prediction]:
        for label, row, score in self.rows():
            if self.classes:
                yield Prediction(label, dict(zip(self.classes, row, strict=True)), unknown=score)
            else:
                yield Prediction(label, value=row)

    @overload
    def __getitem__(self, index: int) -> Prediction: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[Prediction, ...]: ...

    def __getitem__(self, index: int | slice) -> Prediction | tuple[Prediction, ...]:
        return tuple(self)[index]

    def __eq__(self, other: object) -> bool:
        return tuple(self) == tuple(other) if isinstance(other, Sequence) else NotImplemented

    __hash__ = None  # type: ignore[assignment]
