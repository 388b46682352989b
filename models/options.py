"""Options of a spec against the fields of the class that takes them: unknown, missing or of another type is InvalidOptions, by key.

A spec comes from TOML or JSON, where anything may stand for anything: 2.5 steps, "no" for false, "3" for 3. Ranges, and the words that
a string may be, are the class's own to check; it may rely on the types.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, Field, fields
from typing import Any, get_args, get_origin, get_type_hints

from models.errors import InvalidOptions

_WORDS = {
    bool: ("true or false", "true or false"),
    int: ("a whole number", "whole numbers"),
    float: ("a number", "numbers"),
    str: ("a string", "strings"),
}
"""What a value of a type is called, alone and in a list."""


def parse_options(shape: type[Any], spec: Mapping[str, Any], owner: str, *, given: frozenset[str], prefix: str = "") -> dict[str, Any]:
    """The values of `spec` as the fields of the dataclass `shape` want them: tuples for lists, floats for ints.

    owner: what has the options, as a fault names it; prefix: the dotted place of the keys.
    given: fields that the caller fills in, and so no options.
    """
    options = {field.name: field for field in fields(shape) if field.init and field.name not in given}
    if unknown := set(spec) - set(options):
        raise InvalidOptions(f"{owner} has no option {sorted(unknown)}; it has {sorted(options)}")
    if missing := {name for name, field in options.items() if _is_required(field)} - set(spec):
        raise InvalidOptions(f"{owner} needs the options {sorted(missing)}")
    hints = _type_hints(shape)
    return {key: _parse(value, hints.get(key, _type_of_default(options[key])), prefix + key) for key, value in spec.items()}


def _is_required(field: Field[Any]) -> bool:
    return field.default is MISSING and field.default_factory is MISSING


def _type_hints(shape: type[Any]) -> dict[str, Any]:
    try:
        return get_type_hints(shape)
    except Exception:  # names that another package imports for type checkers alone: the defaults are left to go by
        return {}


def _type_of_default(field: Field[Any]) -> Any:
    return Any if field.default is MISSING or field.default is None else type(field.default)


def _parse(value: Any, hint: Any, key: str) -> Any:
    value = tuple(value) if isinstance(value, list) else value
    if not _fits(value, hint):
        raise InvalidOptions(f"{key} must be {_describe(hint)}, got {list(value) if isinstance(value, tuple) else value!r}")
    return _convert(value, hint)


def _fits(value: Any, hint: Any) -> bool:
    if hint in _WORDS:
        return type(value) is hint or (hint is float and type(value) is int)  # bool is an int to isinstance, and must not pass for one
    if hint is tuple or get_origin(hint) is tuple:
        return isinstance(value, tuple) and all(_fits(item, _item_type(hint)) for item in value)
    return True  # strings of a Literal, and whatever another package has: its class knows


def _convert(value: Any, hint: Any) -> Any:
    if hint is float:
        return float(value)
    return tuple(_convert(item, _item_type(hint)) for item in value) if isinstance(value, tuple) else value


def _item_type(hint: Any) -> Any:
    """Of the items of a tuple: the tuples of options are lists of any length."""
    item, *_ = get_args(hint) or (Any,)
    return item


def _describe(hint: Any) -> str:
    if hint in _WORDS:
        return _WORDS[hint][0]
    return f"a list of {_WORDS[_item_type(hint)][1]}" if _item_type(hint) in _WORDS else "a list"
