from __future__ import annotations

import numpy as np
import pytest

from app.domain import InitializerInfo, InitializerRef, InputSpec, Label, Limits, SupportSet, TaskOptions
from app.errors import InvalidOptions, InvalidSupport
from app.services.support_rules import check_options, check_support


def info(kind: str = "classification", **limits: int) -> InitializerInfo:
    allowed = {"min_way": 2, "max_way": 3, "max_support": 6, "max_steps": 10} | limits
    ref = InitializerRef("net", 1)
    return InitializerInfo(ref, kind, InputSpec("vector", (2,)), Limits(**allowed), 1, "", {})  # type: ignore[arg-type]


def examples(*labels: Label, shape: tuple[int, ...] = (2,)) -> SupportSet:
    return SupportSet(np.zeros((len(labels), *shape), np.float32), labels)


def faults(support: SupportSet, of: InitializerInfo) -> list[str]:
    with pytest.raises(InvalidSupport) as caught:
        check_support(support, of)
    assert caught.value.issues[0].detail in caught.value.detail
    return [issue.pointer for issue in caught.value.issues]


def test_a_support_set_within_every_limit_passes() -> None:
    check_support(examples("a", "a", "b", "b", "c", "c"), info())
    check_support(examples(1.0, 2, -3.5), info("regression"))


@pytest.mark.parametrize(
    ("support", "pointers"),
    [
        (examples(), ["#/support/inputs"]),
        (SupportSet(np.zeros((2, 2), np.float32), ("a", "b", "c")), ["#/support/labels/2"]),
        (SupportSet(np.zeros((3, 2), np.float32), ("a", "b")), ["#/support/inputs/2"]),
        (examples("a", "b", shape=(3,)), ["#/support/inputs/0"]),
        (examples("a", "b", shape=()), ["#/support/inputs/0"]),
        (SupportSet(np.zeros((), np.float32).reshape(1), ("a",)), ["#/support/inputs/0"]),
        (examples("a", "a"), ["#/support/labels"]),
        (examples("a", "b", "c", "d"), ["#/support/labels"]),
        (examples(*"aaabbbc"), ["#/support/inputs"]),
        (examples("a", 1.0), ["#/support/labels/1"]),
        (examples("a", ""), ["#/support/labels/1"]),
        (examples("a", "b" * 201), ["#/support/labels/1"]),
    ],
)
def test_each_fault_points_at_its_item(support: SupportSet, pointers: list[str]) -> None:
    assert faults(support, info()) == pointers


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_every_example_that_is_not_finite_is_named(bad: float) -> None:
    support = examples("a", "b", "c")
    support.inputs[[0, 2], 1] = bad
    assert faults(support, info()) == ["#/support/inputs/0", "#/support/inputs/2"]


@pytest.mark.parametrize("label", ["a", "1.0", float("nan"), float("inf"), 1e39, True])
def test_regression_takes_finite_numbers_only(label: Label) -> None:
    assert faults(examples(1.0, label), info("regression")) == ["#/support/labels/1"]


def test_an_empty_regression_set_is_refused() -> None:
    assert faults(examples(), info("regression")) == ["#/support/inputs"]


def test_a_thousand_faults_are_told_by_the_first_twenty() -> None:
    support = SupportSet(np.full((1000, 2), np.nan, np.float32), ("a", "b") * 500)
    assert len(faults(support, info(max_support=1000))) == 20


@pytest.mark.parametrize("steps", [0, -1, 11])
def test_steps_outside_the_limits_are_refused(steps: int) -> None:
    with pytest.raises(InvalidOptions) as caught:
        check_options(TaskOptions(steps=steps), info())
    assert [issue.pointer for issue in caught.value.issues] == ["#/options/steps"]


@pytest.mark.parametrize("steps", [None, 1, 10])
def test_steps_within_the_limits_pass(steps: int | None) -> None:
    check_options(TaskOptions(steps=steps), info())
