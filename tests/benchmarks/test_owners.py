"""Every millisecond of a prediction in this process has an owner."""

from __future__ import annotations

import asyncio

import pytest

from benchmarks.owners import Stopwatch, share_out


class Sleeper:
    async def sleep(self, s: float, *, fails: bool = False) -> str:
        await asyncio.sleep(s)
        if fails:
            raise ValueError("no")
        return "slept"


async def test_calls_that_are_watched_are_timed_and_end_as_they_would() -> None:
    watch, sleeper = Stopwatch(), Sleeper()
    watch.watch(sleeper, "sleep", "asleep")
    assert await sleeper.sleep(0.01) == "slept"
    with pytest.raises(ValueError, match="no"):
        await sleeper.sleep(0.01, fails=True)
    watch.add({"awake": 3.0})
    spent_ms = watch.take()
    assert spent_ms["asleep"] >= 20
    assert spent_ms["awake"] == 3.0
    assert watch.take() == {}


def test_the_owners_of_a_request_add_up_to_its_mean() -> None:
    means = share_out([4.0, 2.0], [{"read": 1.0}, {"read": 1.0, "device": 2.0}])
    assert means == {"read": 1.0, "device": 1.0, "rest": 1.0}


def test_of_no_requests_there_are_no_owners() -> None:
    assert share_out([], []) == {}
