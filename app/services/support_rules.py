"""Where a support set is validated. Every fault points at its item: `#/support/inputs/3`, `#/support/labels/3`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from app.domain import Ability, Array, InitializerInfo, Label, SupportSet, TaskOptions
from app.errors import InvalidOptions, InvalidQuery, InvalidSupport, Issue

_MAX_ISSUES = 20
"""More faults than this help nobody and would make the answer as long as the request."""

_MAX_VALUE = float(np.finfo(np.float32).max)
"""A larger label would reach the learner as infinity."""


def check_support(support: SupportSet, info: InitializerInfo, *, pointer: str = "#/support") -> None:
    """Raises InvalidSupport unless the initializer can adapt to this support set."""
    check_examples(support, info, pointer=pointer)
    check_counts(support, info, pointer=pointer)


def check_examples(support: SupportSet, info: InitializerInfo, *, pointer: str) -> None:
    """Each example by itself: a label for every input, the right shape, finite numbers, labels of the right kind."""
    # A lone number has no length; everything else is counted first.
    issues = _length_issues(support, pointer) if support.inputs.ndim else []
    issues = issues or _shape_issues(support.inputs, info, f"{pointer}/inputs")
    issues = issues or [*_finite_issues(support.inputs, f"{pointer}/inputs"), *_label_issues(support.labels, info, f"{pointer}/labels")]
    if issues:
        raise InvalidSupport(_summary("support set", issues), issues=issues)


def check_counts(support: SupportSet, info: InitializerInfo, *, pointer: str) -> None:
    """The support set as a whole: enough and not too many classes and examples."""
    issues = _count_issues(support, info, pointer)
    if issues:
        raise InvalidSupport(_summary("support set", issues), issues=issues)


def check_queries(queries: Array, info: InitializerInfo, *, max_queries: int, pointer: str = "#/inputs") -> None:
    """Raises InvalidQuery unless queries is (1..max_queries, *input shape) and finite."""
    issues = _shape_issues(queries, info, pointer) or _finite_issues(queries, pointer)
    if not issues and not 1 <= len(queries) <= max_queries:
        issues = [Issue(pointer, f"{len(queries)} queries; expected 1 to {max_queries} in one request")]
    if issues:
        raise InvalidQuery(_summary("query", issues), issues=issues)


def check_options(options: TaskOptions, info: InitializerInfo, *, pointer: str = "#/options") -> None:
    """Raises InvalidOptions unless steps is None or in 1..max_steps."""
    if options.steps is None or 1 <= options.steps <= max(info.limits.max_steps, info.default_steps):
        return
    if info.limits.max_steps < 1:
        expected = f"{info.ref.name} adapts without inner steps; leave `steps` out"
    else:
        expected = f"expected 1 to {info.limits.max_steps} for {info.ref.name}, got {options.steps}"
    raise InvalidOptions(f"steps: {expected}", issues=[Issue(f"{pointer}/steps", expected)])


def check_warm_start(options: TaskOptions, abilities: frozenset[Ability], info: InitializerInfo, *, pointer: str = "#/options") -> None:
    """Raises InvalidOptions when a warm start is asked of a learner that cannot start from other weights."""
    if options.warm_start and not abilities >= {"embed", "restart"}:
        expected = f"{info.ref.name} cannot start from the weights of another task; leave `warm_start` out"
        raise InvalidOptions(f"warm_start: {expected}", issues=[Issue(f"{pointer}/warm_start", expected)])


def _length_issues(support: SupportSet, pointer: str) -> list[Issue]:
    inputs, labels = len(support.inputs), len(support.labels)
    if inputs == 0 and labels == 0:
        return [Issue(f"{pointer}/inputs", "empty; expected at least one labelled example per class")]
    if labels > inputs:
        return [Issue(f"{pointer}/labels/{inputs}", f"a label without an input: {labels} labels for {inputs} inputs")]
    if inputs > labels:
        return [Issue(f"{pointer}/inputs/{labels}", f"an input without a label: {inputs} inputs for {labels} labels")]
    return []


def _shape_issues(inputs: Array, info: InitializerInfo, pointer: str) -> list[Issue]:
    got, expected = tuple(inputs.shape[1:]), info.input.shape
    if inputs.ndim >= 1 and got == expected:
        return []
    at = f"{pointer}/0" if inputs.ndim >= 1 and len(inputs) else pointer
    return [Issue(at, f"shape {list(got)}; {info.ref.name} expects {list(expected)} ({info.input.kind})")]


def _finite_issues(inputs: Array, pointer: str) -> list[Issue]:
    if inputs.dtype.kind != "f":
        return []
    each = np.isfinite(inputs)
    if each.all():  # nearly always, and many times cheaper than asking of which input it holds
        return []
    finite = each.all(axis=tuple(range(1, inputs.ndim)))
    return [Issue(f"{pointer}/{i}", "holds NaN or infinity; expected finite numbers") for i in np.flatnonzero(~finite)[:_MAX_ISSUES]]


def _label_issues(labels: Sequence[Label], info: InitializerInfo, pointer: str) -> list[Issue]:
    fits, expected = (
        (_is_number, "a number that float32 can hold")
        if info.kind == "regression"
        else (_is_class_name, "a class name, a text of 1 to 200 characters")
    )
    wrong = [i for i, label in enumerate(labels) if not fits(label)]
    return [Issue(f"{pointer}/{i}", f"{_show(labels[i])}; {info.ref.name} expects {expected}") for i in wrong[:_MAX_ISSUES]]


def _count_issues(support: SupportSet, info: InitializerInfo, pointer: str) -> list[Issue]:
    limits, issues = info.limits, []
    if len(support.labels) > limits.max_support:
        issues.append(Issue(f"{pointer}/inputs", f"{len(support.labels)} examples; {info.ref.name} takes at most {limits.max_support}"))
    if info.kind == "regression":
        if len(support.labels) == 0:
            issues.append(Issue(f"{pointer}/inputs", "empty; expected at least one labelled example"))
        return issues
    n_way = len(support.classes)
    if n_way < limits.min_way:
        issues.append(Issue(f"{pointer}/labels", f"{n_way} classes; {info.ref.name} needs at least {limits.min_way}"))
    if n_way > limits.max_way:
        issues.append(Issue(f"{pointer}/labels", f"{n_way} classes; {info.ref.name} takes at most {limits.max_way}"))
    return issues


def _is_number(label: Label) -> bool:
    return isinstance(label, int | float) and not isinstance(label, bool) and abs(label) <= _MAX_VALUE


def _is_class_name(label: Label) -> bool:
    return isinstance(label, str) and 1 <= len(label) <= 200


def _show(label: Label) -> str:
    return f"{label[:40]!r}" if isinstance(label, str) else f"the number {label:g}"


def _summary(what: str, issues: Sequence[Issue]) -> str:
    first = issues[0]
    more = f" (and {len(issues) - 1} more)" if len(issues) > 1 else ""
    return f"The {what} cannot be used: {first.pointer}: {first.detail}{more}"
