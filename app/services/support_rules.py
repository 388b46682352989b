"""Where a support set is validated. Every fault points at its item: `#/support/inputs/3`, `#/support/labels/3`."""

from __future__ import annotations

from app.domain import Array, InitializerInfo, SupportSet, TaskOptions


def check_support(support: SupportSet, info: InitializerInfo, *, pointer: str = "#/support") -> None:
    """Raises InvalidSupport unless the initializer can adapt to this support set."""
    raise NotImplementedError


def check_queries(queries: Array, info: InitializerInfo, *, max_queries: int, pointer: str = "#/inputs") -> None:
    """Raises InvalidQuery unless queries is (1..max_queries, *input shape) and finite."""
    raise NotImplementedError


def check_options(options: TaskOptions, info: InitializerInfo, *, pointer: str = "#/options") -> None:
    """Raises InvalidOptions unless steps is None or in 1..max_steps."""
    raise NotImplementedError
