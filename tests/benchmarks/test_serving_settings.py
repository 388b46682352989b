"""Who is measured with how many threads, and which settings `--only` leaves."""

from __future__ import annotations

import gc
import sys
from collections import Counter

import pytest
from sqlalchemy import create_engine, inspect
from sqlalchemy.exc import OperationalError

from app.db.migrate import connect_for_migration
from benchmarks import cache, serve
from benchmarks.borrowed_postgres import borrowed_postgres
from benchmarks.catalogue import Refused
from benchmarks.harness import Plan
from benchmarks.http_contenders import list_peers
from benchmarks.serve_settings import choose_extent, list_settings
from benchmarks.service_tasks import settled_interpreter


def test_every_peer_is_tried_with_its_own_default_and_with_our_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "count_torch_threads", lambda: 3)
    assert serve.choose_peer_threads(Plan(threads=4)) == [0, 3]
    assert serve.choose_peer_threads(Plan(threads=3)) == [0]
    names = [peer.name for peer in list_peers([0, 3])]
    assert names[:2] == ["plain endpoint", "plain endpoint, 3 torch threads"]


def test_threads_that_were_asked_for_are_everybodys() -> None:
    assert serve.choose_peer_threads(Plan(threads=2, service_threads=2)) == [2]


def test_a_cache_setting_that_is_not_there_is_refused_with_those_that_are() -> None:
    with pytest.raises(Refused, match="in-process, 1 callers"):
        cache.run(Plan(quick=True, only="nothing of the kind"))


def test_the_interpreter_is_as_it_was_after_a_measurement() -> None:
    before = sys.getswitchinterval(), gc.get_freeze_count()
    with settled_interpreter():
        assert gc.get_freeze_count() > before[1]
        assert sys.getswitchinterval() < before[0]
    assert sys.getswitchinterval() == before[0]
    assert gc.get_freeze_count() <= before[1]


def test_a_sweep_asks_next_for_the_task_that_was_asked_the_longest_ago() -> None:
    first_asked = list(reversed(range(5)))
    assert cache.plan_requests("sweep", 5, 12) == (first_asked * 3)[:12]


def test_skewed_requests_are_mostly_for_few_tasks_and_uniform_ones_are_not() -> None:
    skewed, uniform = (Counter(cache.plan_requests(pattern, 100, 20_000)) for pattern in ("zipf", "uniform"))
    assert skewed[0] / skewed[9] == pytest.approx(10, rel=0.3)
    assert sum(skewed[task] for task in range(10)) > 10_000
    assert max(uniform.values()) < 2 * min(uniform.values())


def test_without_postgresql_nobody_is_separated_and_the_reason_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INNERLOOP_BENCHMARK_POSTGRES_URL", "postgresql://nobody@127.0.0.1:1/none")
    with serve.borrowed_stores() as (stores, absent):
        assert stores is None
    assert "INNERLOOP_BENCHMARK_POSTGRES_URL" in absent["the separated deployment"]
    deployments = {setting.deployment for setting in list_settings(choose_extent(quick=False), is_separable=False)}
    assert deployments == {"embedded"}


def test_both_deployments_meet_the_same_loops_and_the_embedded_one_other_numbers_of_tasks_as_well() -> None:
    settings = list_settings(choose_extent(quick=False), is_separable=True)
    embedded, separated = (
        {str(setting).removesuffix(f", {deployment}") for setting in settings if setting.deployment == deployment}
        for deployment in ("embedded", "separated")
    )
    assert len(embedded) + len(separated) == len(settings), "no setting twice"
    assert separated < embedded
    assert len(separated) == 5 * 3 + 3 * 3
    others = {("predict", 200), ("adapt", 30), ("mixed", 150)}
    assert embedded - separated == {f"{workload}, {n} clients, open loop at {rate}/s" for workload, rate in others for n in (1, 16, 128)}


def test_deployments_are_not_mixed_for_each_is_started_once() -> None:
    deployments = [setting.deployment for setting in list_settings(choose_extent(quick=True), is_separable=True)]
    assert deployments == sorted(deployments)


def test_a_borrowed_database_has_our_tables_and_is_gone_afterwards(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INNERLOOP_BENCHMARK_POSTGRES_URL", postgres_url.replace("+psycopg", ""))
    with borrowed_postgres() as url:
        assert url is not None
        with connect_for_migration(url) as connection:
            assert inspect(connection).has_table("tasks")
    with pytest.raises(OperationalError), create_engine(url).connect():
        pass
