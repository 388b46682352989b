"""Tables of where milliseconds went."""

from __future__ import annotations

from typing import Any

from benchmarks.profile_tables import profile_cache, profile_predict, profile_serve

TOLD: dict[str, Any] = {"p50_ms": 1.0, "p99_ms": 3.0, "mean_ms": 1.5}


def make_row(details: dict[str, Any], **settings: Any) -> dict[str, Any]:
    return {"settings": settings, "details": details}


def cells_of(table: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]


def test_owners_stand_in_the_order_in_which_they_have_a_request_and_others_behind_them() -> None:
    ours = {"predict": {**TOLD, "phases_ms": {"spare": 0.1, "outside": 0.4, "device": 1.0}}}
    row = make_row({"contenders": {"ours": ours}}, deployment="embedded", workload="predict", clients=1)
    header, _, line = cells_of(profile_serve([row]))
    assert header == ["milliseconds", "p50", "p99", "mean", "device", "outside", "spare"]
    assert line == ["predict, 1 client: predict", "1.00", "3.00", "1.50", "1.00", "0.40", "0.10"]


def test_a_kind_that_does_not_know_an_owner_has_a_dash_there() -> None:
    ours = {"adapt": {**TOLD, "phases_ms": {"queue_wait": 0.5}}, "predict": {**TOLD, "phases_ms": {"device": 1.5}}}
    row = make_row({"contenders": {"ours": ours}}, deployment="separated", workload="mixed", clients=64)
    lines = cells_of(profile_serve([row]))
    assert [line[4:] for line in lines] == [["queue wait", "device"], ["--:", "--:"], ["0.50", "-"], ["-", "1.50"]]


def test_of_predictions_the_fewest_and_the_most_tasks_are_shown_and_files_without_owners_say_nothing() -> None:
    settings = {"initializer": "omniglot-maml", "callers": 64}
    rows = [make_row({**TOLD, "phases_ms": {"device": 1.0, "rest": 0.5}}, **settings, resident_tasks=tasks) for tasks in (1, 5, 10, 2000)]
    _, table = profile_predict(rows)
    assert [line[0] for line in cells_of(table)[2:]] == ["`omniglot-maml`, 64 callers, 5 tasks", "`omniglot-maml`, 64 callers, 2,000 tasks"]
    assert profile_predict([make_row(TOLD, **settings, resident_tasks=5)]) == []


def test_of_the_cache_the_walks_are_shown_in_which_all_hit_and_all_miss() -> None:
    told = {**TOLD, "phases_ms": {"read": 0.5, "bring_back": 0.2, "rest": 0.8}}
    rows = [
        make_row(told, store="redis", callers=1, pattern=pattern, working_set=multiple)
        for pattern in ("uniform", "sweep")
        for multiple in (0.5, 1, 10)
    ]
    _, table = profile_cache(rows)
    assert [line[0] for line in cells_of(table)[2:]] == ["redis, 1 caller, 0.5x", "redis, 1 caller, 10x"]
    assert cells_of(table)[0][4:] == ["read", "bring back", "rest"]
    assert profile_cache([make_row(TOLD, store="redis", callers=1, pattern="sweep", working_set=10)]) == []
