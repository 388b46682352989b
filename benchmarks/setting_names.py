"""Settings in words. A name is its parts, from the widest to the narrowest: ("redis", "16 callers", "zipf", "2x")."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

Name = tuple[str, ...]


def count(number: int, noun: str) -> str:
    """Such as "1 caller" or "16 callers"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def tell_chosen(choice: Mapping[Name, bool]) -> str:
    """Those that are chosen among all there are, in few words: "redis, 1 caller: all; redis, 16 callers, sweep and zipf: 2x and 10x".

    A part that makes no difference is left out: where every learner misses with 64 callers and none with one, it is "64 callers".
    All names have the same number of parts.
    """
    return "; ".join(_punctuate(line) for line in _factor(choice))


def _factor(choice: Mapping[Name, bool]) -> list[Name]:
    """Lines that each stand for the product of their parts; parts with the same choice behind them share a line."""
    if all(choice.values()):
        return [()] if () in choice else [("all",)]
    behind = _branch(choice)
    alike: dict[frozenset[tuple[Name, bool]], list[str]] = {}
    for part, rest in behind.items():
        alike.setdefault(frozenset(rest.items()), []).append(part)
    return [
        (_enumerate(parts), *line) if len(alike) > 1 else line
        for parts in alike.values()
        if any(behind[parts[0]].values())
        for line in _factor(behind[parts[0]])
    ]


def _branch(choice: Mapping[Name, bool]) -> dict[str, dict[Name, bool]]:
    """What is behind each first part."""
    behind: dict[str, dict[Name, bool]] = {}
    for (part, *rest), is_chosen in choice.items():
        behind.setdefault(part, {})[tuple(rest)] = is_chosen
    return behind


def _enumerate(words: Sequence[str]) -> str:
    *others, last = words
    return f"{', '.join(others)} and {last}" if others else last


def _punctuate(line: Name) -> str:
    *where, last = line
    return f"{', '.join(where)}: {last}" if where else last
