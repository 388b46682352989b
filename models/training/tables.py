"""TOML tables into frozen dataclasses: unknown keys, wrong kinds and numbers out of range are InvalidRecipe, by key."""

from __future__ import annotations

import math
import types
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from models.errors import InvalidRecipe

T = TypeVar("T")

POSITIVE = {"meta_steps", "learning_rate", "clip_norm", "every", "episodes", "k_shot", "n_query", "tasks", "weight", "max_support"}
"""Keys that must be above zero; every other number must not be negative."""


def parse_table(shape: type[T], table: Any, where: str) -> T:
    """`table` as a `shape`; `where` is its dotted place in the recipe, empty at the top."""
    if not isinstance(table, Mapping):
        raise InvalidRecipe(f"{where} must be a table, got {type(table).__name__}")
    known: dict[str, Field[Any]] = {f.name: f for f in fields(shape)}  # type: ignore[arg-type]
    for key in table:
        if key not in known:
            raise InvalidRecipe(f"{_join(where, key)} is unknown; the keys here are {sorted(known)}")
    hints = get_type_hints(shape)
    values = {key: _parse_value(hints[key], value, _join(where, key)) for key, value in table.items()}
    for key, declared in known.items():
        if key not in values and declared.default is MISSING and declared.default_factory is MISSING:
            raise InvalidRecipe(f"{_join(where, key)} is missing")
    return shape(**values)


def _parse_value(hint: Any, value: Any, where: str) -> Any:
    origin = get_origin(hint)
    if is_dataclass(hint) and isinstance(hint, type):
        return parse_table(hint, value, where)
    if origin in (Union, types.UnionType):  # only `X | None` is used
        return None if value is None else _parse_value(get_args(hint)[0], value, where)
    if origin is tuple:
        return _parse_list(get_args(hint)[0], value, where)
    if origin is Literal:
        if value not in get_args(hint):
            raise InvalidRecipe(f"{where} must be one of {list(get_args(hint))}, got {value!r}")
        return value
    return _parse_scalar(hint, value, where)


def _parse_list(hint: Any, value: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)):
        raise InvalidRecipe(f"{where} must be a list of tables, got {type(value).__name__}")
    return tuple(_parse_value(hint, item, f"{where}[{index}]") for index, item in enumerate(value))


def _parse_scalar(hint: Any, value: Any, where: str) -> Any:
    if get_origin(hint) is not None:  # Mapping[str, Any]: a table that someone else checks
        if not isinstance(value, Mapping):
            raise InvalidRecipe(f"{where} must be a table, got {type(value).__name__}")
        return dict(value)
    if hint is float and type(value) is int:
        value = float(value)
    if type(value) is not hint:  # bool is an int to isinstance, and must not pass for one
        raise InvalidRecipe(f"{where} must be {hint.__name__}, got {value!r}")
    if hint in (int, float):
        _check_range(value, where)
    return value


def _check_range(value: float, where: str) -> None:
    key = where.rsplit(".", 1)[-1]
    if not math.isfinite(value) or value < 0 or (value == 0 and key in POSITIVE):
        raise InvalidRecipe(f"{where} must be {'above' if key in POSITIVE else 'at least'} 0 and finite, got {value}")


def _join(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key
