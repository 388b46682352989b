from __future__ import annotations

from datetime import UTC, datetime, timedelta

from app.db.ids import derived_id, new_id

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def test_ids_sort_by_time_and_need_no_escaping() -> None:
    ids = [new_id("task", NOON + timedelta(milliseconds=i)) for i in range(50)]
    assert ids == sorted(ids)
    assert all(len(task_id) == 31 and task_id.replace("_", "").isalnum() for task_id in ids)


def test_fresh_ids_of_one_millisecond_differ() -> None:
    assert len({new_id("task", NOON) for _ in range(100)}) == 100


def test_derived_ids_are_equal_for_equal_parts_only() -> None:
    assert derived_id("pred", NOON, "a", 1) == derived_id("pred", NOON, "a", 1)
    assert derived_id("pred", NOON, "a", 1) != derived_id("pred", NOON, "a", 2)
