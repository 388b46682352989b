"""`Accept` (RFC 9110, section 12.5.1): which of the media types on offer a client wants most."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from fastapi import Request

from app.errors import Issue, NotAcceptable

_NAME = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
# A quote that is never closed goes on to the end: nothing here can fail, so the time it takes stays in proportion to the length.
_ELEMENT = re.compile(r'(?:[^,"]|"(?:[^"\\]|\\.?)*"?)+')
_RANGE = re.compile(rf"\s*({_NAME})/({_NAME})\s*(?:;(.*))?", re.DOTALL)
_WEIGHT = re.compile(r"(?:^|;)\s*q=(0(?:\.\d{0,3})?|1(?:\.0{0,3})?)\s*(?=;|$)", re.IGNORECASE)


@dataclass(frozen=True)
class MediaRange:
    """One element of Accept: `text/html`, `text/*` or `*/*`, and its weight, 0 to 1, where 0 is a refusal."""

    kind: str
    subkind: str
    weight: float

    def closeness_to(self, media: str) -> int:
        """2 for the type itself, 1 for `type/*`, 0 for `*/*`; -1 where it does not match."""
        kind, _, subkind = media.partition("/")
        if (self.kind, self.subkind) == ("*", "*"):
            return 0
        if self.kind != kind or self.subkind not in (subkind, "*"):
            return -1
        return 1 if self.subkind == "*" else 2


def choose_media(request: Request, offered: tuple[str, ...], *, because: str = "") -> str:
    """The media type of the answer, of those offered. `because` says why there are no others. Raises NotAcceptable."""
    # A list may be spread over header fields (RFC 9110, section 5.3).
    accept = b", ".join(value for name, value in request.scope["headers"] if name == b"accept").decode("latin-1")
    chosen = find_best(accept, offered)
    if chosen is None:
        detail = f"expected Accept to allow {' or '.join(offered)}{because and f': {because}'}, found {accept[:80]!r}"
        raise NotAcceptable(detail, issues=[Issue("#/header/accept", detail)])
    return chosen


@lru_cache(maxsize=64)
def find_best(accept: str, offered: tuple[str, ...]) -> str | None:
    """The one of largest weight, of equal ones the first; None when all are refused. An Accept that says nothing allows everything.

    For each media type the closest range that matches counts. Parameters of ranges are not looked at: no media type here has any.
    """
    ranges = read_ranges(accept)
    if not ranges:
        return offered[0]
    weights = {media: _weigh(media, ranges) for media in offered}
    best = max(offered, key=weights.__getitem__)
    return best if weights[best] > 0 else None


def read_ranges(accept: str) -> list[MediaRange]:
    """The elements that can be read; others are ignored, as is an empty list."""
    found = (_read_range(element) for element in _ELEMENT.findall(accept))
    return [each for each in found if each is not None]


def _read_range(element: str) -> MediaRange | None:
    match = _RANGE.fullmatch(element)
    if match is None or (match[1] == "*" and match[2] != "*"):
        return None
    weight = _WEIGHT.search(match[3] or "")
    return MediaRange(match[1].lower(), match[2].lower(), float(weight[1]) if weight else 1.0)


def _weigh(media: str, ranges: Sequence[MediaRange]) -> float:
    _, weight = max(_matches(media, ranges), default=(0, 0.0))
    return weight


def _matches(media: str, ranges: Sequence[MediaRange]) -> Iterable[tuple[int, float]]:
    return ((closeness, each.weight) for each in ranges if (closeness := each.closeness_to(media)) >= 0)
