from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from models.answers import answer_lanes
from models.errors import InvalidOptions
from models.serving import adapt_lanes
from models.support import Params, State
from tests.models.test_serving import LEARNER, make_task

Array = npt.NDArray[np.float32]


@pytest.fixture
def params() -> Params:
    return LEARNER.init(torch.Generator().manual_seed(0))


@pytest.fixture
def state(params: Params) -> State:
    return adapt_lanes(LEARNER, params, [make_task(3, 1)], 2)[0].state


def draw_queries(n: int) -> Array:
    return np.random.default_rng(n).random((n, 1, 16, 16), dtype=np.float32)


def test_every_lane_is_answered_for_its_own_classes(params: Params) -> None:
    states = [lane.state for lane in adapt_lanes(LEARNER, params, [make_task(2, 3), make_task(5, 1)], 2)]
    answers = answer_lanes(LEARNER, params, states, [draw_queries(4), draw_queries(1)], 100)
    assert [lane.values.shape for lane in answers] == [(4, 2), (1, 5)]
    assert all(lane.is_finite for lane in answers)


def test_queries_that_are_no_numbers_are_marked_and_the_others_are_not(params: Params, state: State) -> None:
    answers = answer_lanes(LEARNER, params, [state, state], [draw_queries(2), np.full((1, 1, 16, 16), np.nan, np.float32)], 100)
    assert [lane.is_finite for lane in answers] == [True, False]


def test_answers_do_not_depend_on_how_the_queries_are_split(params: Params, state: State) -> None:
    queries = draw_queries(20)
    [whole], [pieces] = (answer_lanes(LEARNER, params, [state], [queries], size) for size in (100, 3))
    np.testing.assert_allclose(whole.values, pieces.values, rtol=1e-5, atol=1e-5)


def test_answers_are_explained_by_each_tasks_own_examples_as_they_are_alone(params: Params) -> None:
    tasks = [make_task(2, 3), make_task(5, 1)]
    states = [lane.state for lane in adapt_lanes(LEARNER, params, tasks, 2)]
    queries = [draw_queries(4), draw_queries(1)]
    together = answer_lanes(LEARNER, params, states, queries, 6, explained=tasks)
    assert [lane.weights.shape for lane in together if lane.weights is not None] == [(4, 6), (1, 5)]
    for index, lane in enumerate(together):
        [alone] = answer_lanes(LEARNER, params, [states[index]], [queries[index]], 100, explained=[tasks[index]])
        assert lane.weights is not None
        assert alone.weights is not None
        np.testing.assert_allclose(lane.weights, alone.weights, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(np.abs(lane.weights).sum(1), 1, rtol=1e-5)


class Silent:
    """A learner that answers and explains nothing."""

    kind = "classification"
    predict = staticmethod(LEARNER.predict)


def test_a_learner_that_explains_nothing_is_not_asked_to(params: Params, state: State) -> None:
    silent: Any = Silent()
    queries = [draw_queries(1)]
    assert answer_lanes(silent, params, [state], queries, 100)[0].weights is None
    with pytest.raises(InvalidOptions, match="cannot say"):
        answer_lanes(silent, params, [state], queries, 100, explained=[make_task(3, 1)])
