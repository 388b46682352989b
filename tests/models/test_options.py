"""A spec's values become what a class's fields are annotated with, or are refused by name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import pytest

from models.errors import InvalidOptions
from models.options import parse_options

if TYPE_CHECKING:
    from pathlib import PurePath


@dataclass(frozen=True)
class Shape:
    """A class with an option of every type."""

    backbone: object
    size: int
    rate: float = 0.5
    is_deep: bool = False
    name: str = "a"
    mood: Literal["good", "bad"] = "good"
    widths: tuple[int, ...] = ()
    rates: tuple[float, ...] = (1.0,)
    whatever: Any = None


@dataclass(frozen=True)
class Foreign:
    """A class whose annotations cannot be read, since only type checkers import what they name."""

    path: PurePath | None = None
    steps: int = 3
    sizes: tuple[int, ...] = (1, 2)


def parse(spec: dict[str, Any], shape: type[Any] = Shape) -> dict[str, Any]:
    return parse_options(shape, spec, "shape", given=frozenset({"backbone"}), prefix="here.")


def test_lists_become_tuples_and_whole_numbers_numbers() -> None:
    parsed = parse({"size": 3, "rate": 1, "widths": [4, 5], "rates": [1, 2.5], "whatever": {"a": 1}})
    assert parsed == {"size": 3, "rate": 1.0, "widths": (4, 5), "rates": (1.0, 2.5), "whatever": {"a": 1}}
    assert [type(value) for value in (parsed["rate"], *parsed["rates"])] == [float] * 3


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"size": 3.0}, r"here\.size must be a whole number, got 3\.0"),
        ({"rate": None}, r"here\.rate must be a number, got None"),
        ({"is_deep": 0}, r"here\.is_deep must be true or false, got 0"),
        ({"name": 3}, r"here\.name must be a string, got 3"),
        ({"widths": [True]}, r"here\.widths must be a list of whole numbers, got \[True\]"),
        ({"rates": "1"}, r"here\.rates must be a list of numbers, got '1'"),
        ({"depth": 3}, r"shape has no option \['depth'\]; it has .*'size'"),
        ({"backbone": 3}, r"shape has no option \['backbone'\]"),
    ],
)
def test_another_type_is_refused_by_key(change: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidOptions, match=words):
        parse({"size": 3, **change})


def test_an_option_without_a_default_is_asked_for() -> None:
    with pytest.raises(InvalidOptions, match=r"shape needs the options \['size'\]"):
        parse({})


def test_the_words_of_a_literal_are_the_business_of_its_class() -> None:
    assert parse({"size": 3, "mood": "sad"})["mood"] == "sad"


def test_where_annotations_cannot_be_read_the_defaults_are_gone_by() -> None:
    assert parse({"path": "/tmp", "steps": 4, "sizes": [3]}, Foreign) == {"path": "/tmp", "steps": 4, "sizes": (3,)}
    with pytest.raises(InvalidOptions, match=r"here\.steps must be a whole number, got '4'"):
        parse({"steps": "4"}, Foreign)
