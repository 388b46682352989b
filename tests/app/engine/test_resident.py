from __future__ import annotations

import pytest

from app.domain import InitializerRef, StateKey
from app.engine.resident import ResidentStates
from app.errors import StateNotResident

REF = InitializerRef("digits", 1)


def key(task_id: str, revision: int = 1, ref: InitializerRef = REF) -> StateKey:
    return StateKey(task_id, revision, ref)


def filled(max_bytes: int, *task_ids: str) -> ResidentStates[str]:
    states: ResidentStates[str] = ResidentStates(max_bytes)
    for task_id in task_ids:
        states.put(key(task_id), task_id.upper(), 10)
    return states


def test_the_least_recently_used_state_leaves_first() -> None:
    states = filled(30, "a", "b", "c")
    with states.pinned(key("a")) as value:
        assert value == "A"
    states.put(key("d"), "D", 10)
    assert [key(name) in states for name in "abcd"] == [True, False, True, True]
    assert states.n_bytes == 30


def test_a_state_in_use_is_not_evicted() -> None:
    states = filled(20, "a", "b")
    with states.pinned(key("a")):
        states.put(key("c"), "C", 20)
        assert key("a") in states
        assert key("c") in states
    assert key("a") not in states
    assert states.n_bytes == 20


def test_the_newest_state_stays_even_when_it_is_larger_than_the_budget() -> None:
    states = filled(20, "a", "b")
    states.put(key("huge"), "H", 100)
    with states.pinned(key("huge")) as value:
        assert value == "H"
    assert len(states) == 1
    states.put(key("a"), "A", 10)
    assert key("huge") not in states


def test_a_state_put_twice_counts_once() -> None:
    states = filled(30, "a")
    states.put(key("a"), "new", 15)
    with states.pinned(key("a")) as value:
        assert value == "new"
    assert states.n_bytes == 15


def test_forgetting_a_task_drops_all_its_revisions_and_nothing_else() -> None:
    states = filled(100, "a", "b")
    states.put(key("a", 2), "A2", 10)
    states.drop_task("a")
    states.drop_task("never there")
    assert [key("a") in states, key("a", 2) in states, key("b") in states] == [False, False, True]
    assert states.n_bytes == 10


def test_retiring_an_initializer_drops_its_states_only() -> None:
    other = InitializerRef("digits", 2)
    states = filled(100, "a")
    states.put(key("a", 2, other), "A2", 10)
    states.drop_initializer(REF)
    assert key("a") not in states
    assert key("a", 2, other) in states


def test_an_absent_state_is_named() -> None:
    with pytest.raises(StateNotResident, match=r"a:r1:digits@1"), filled(10).pinned(key("a")):
        pass
