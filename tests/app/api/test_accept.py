"""What a client says that it can read, and the media type it gets."""

from __future__ import annotations

import time

import pytest

from app.api.accept import find_best

OFFERED = ("application/json", "application/x-npy", "application/x-npz")


@pytest.mark.parametrize(
    ("accept", "chosen"),
    [
        ("", "application/json"),
        ("*/*", "application/json"),
        (" , rubbish, */json", "application/json"),
        ("application/x-npy", "application/x-npy"),
        ("APPLICATION/X-NPY; Q=0.3", "application/x-npy"),
        ("application/x-npy;q=0.2, application/json;q=0.1", "application/x-npy"),
        ("application/*;q=0.5, application/x-npz", "application/x-npz"),
        ("text/html, application/xhtml+xml, */*;q=0.8", "application/json"),
        ("application/json;q=0, */*", "application/x-npy"),
        ("application/json;q=0.5, application/*;q=0.9, */*", "application/x-npy"),
        ("application/json; charset=utf-8", "application/json"),
        ('application/x-npy;note="a, b;q=0";q=0.4, application/json;q=0.3', "application/x-npy"),
        ("text/html", None),
        ("text/*, image/png", None),
        ("application/x-npy;q=0, application/x-npz;q=0.000", None),
        ("*/*;q=0", None),
        ('text/html;note="x, application/json"', None),
    ],
)
def test_the_heaviest_of_what_is_offered_is_chosen(accept: str, chosen: str | None) -> None:
    assert find_best(accept, OFFERED) == chosen


@pytest.mark.parametrize("part", ['"', '"\\', ",", "a/b;", ";q=0", "a/b;q=0 ;", '"a\\"', " "])
def test_no_header_takes_long_to_read(part: str) -> None:
    accept = "a/b;" + part * (60_000 // len(part))
    started = time.perf_counter()
    find_best(accept, OFFERED)
    assert time.perf_counter() - started < 1.0
