"""A support set with examples and classes taken out and put in."""

from __future__ import annotations

import numpy as np

from app.domain import Array, SupportSet, as_float32
from app.errors import InvalidSupport, Issue
from app.services.requests import Removal

_MAX_ISSUES = 20


def revise_support(support: SupportSet, add: SupportSet | None, remove: Removal) -> SupportSet:
    """First `remove` (classes, and indices into `support`), then `add` at the end. Raises InvalidSupport pointing into `#/remove`."""
    _check_removal(support, remove)
    if add is None and not remove.classes and not remove.indices:
        return support
    gone, classes_gone = set(remove.indices), set(remove.classes)
    kept = [i for i, label in enumerate(support.labels) if i not in gone and str(label) not in classes_gone]
    remaining = SupportSet(support.inputs[kept], tuple(support.labels[i] for i in kept))
    return _joined(remaining, add) if add is not None else remaining


def _check_removal(support: SupportSet, remove: Removal) -> None:
    classes = set(support.classes)
    unknown = [(i, name) for i, name in enumerate(remove.classes) if name not in classes]
    outside = [(i, index) for i, index in enumerate(remove.indices) if not 0 <= index < len(support.labels)]
    issues = [Issue(f"#/remove/classes/{i}", f"{name[:40]!r} is not a class of the support set") for i, name in unknown[:_MAX_ISSUES]]
    issues += [Issue(f"#/remove/indices/{i}", f"{index}; expected 0 to {len(support.labels) - 1}") for i, index in outside[:_MAX_ISSUES]]
    if issues:
        raise InvalidSupport(f"Nothing was removed: {issues[0].pointer}: {issues[0].detail}", issues=issues)


def _joined(first: SupportSet, second: SupportSet) -> SupportSet:
    return SupportSet(_stacked(first.inputs, second.inputs), first.labels + second.labels)


def _stacked(first: Array, second: Array) -> Array:
    if first.dtype != second.dtype:  # uint8 pixels and float32 numbers in [0, 1]: the engine reads both as float32
        first, second = as_float32(first), as_float32(second)
    return np.concatenate([first, second])
