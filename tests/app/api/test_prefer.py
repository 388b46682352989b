"""The Prefer header as RFC 7240 writes it."""

from __future__ import annotations

import pytest

from app.api.prefer import Preference, parse_prefer


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ([], Preference()),
        (["wait=10"], Preference(10.0)),
        (["respond-async, wait=10"], Preference(10.0, respond_async=True)),
        (["respond-async", "Wait = 5"], Preference(5.0, respond_async=True)),
        (["wait=100"], Preference(30.0)),
        (['wait="7"; strict'], Preference(7.0)),
        (["wait=1, wait=9"], Preference(1.0)),
        (["wait=-1"], Preference()),
        (["wait=1.5"], Preference()),
        (["handling=lenient, return=minimal"], Preference()),
    ],
)
def test_what_is_known_is_honoured_and_the_rest_ignored(headers: list[str], expected: Preference) -> None:
    assert parse_prefer(headers, max_wait_s=30.0) == expected


def test_what_was_applied_is_said() -> None:
    assert Preference(10.0, respond_async=True).applied == "respond-async, wait=10"
    assert Preference().applied == ""
