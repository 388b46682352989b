from __future__ import annotations

from typing import Any

import pytest
import torch

from models.errors import IncompatibleState, InvalidOptions, OutOfMemory
from models.methods import build_learner
from models.serving import adapt_lanes, decode_state, encode_state, make_template, predict_lanes
from models.support import Params, State, Support, make_support

LEARNER = build_learner(
    {
        "method": "maml",
        "kind": "classification",
        "input_shape": [1, 16, 16],
        "inner_steps": 2,
        "backbone": {"kind": "conv4", "filters": 8, "groups": 4},
    }
)


@pytest.fixture
def params() -> Params:
    return LEARNER.init(torch.Generator().manual_seed(0))


def make_task(n_way: int, shots: int) -> Support:
    inputs = torch.rand(n_way * shots, 1, 16, 16, generator=torch.Generator().manual_seed(n_way * 10 + shots))
    return make_support(inputs, torch.arange(n_way).repeat(shots), n_way)


@pytest.fixture
def state(params: Params) -> State:
    return adapt_lanes(LEARNER, params, [make_task(3, 1)], 2)[0].state


def test_every_lane_keeps_its_own_number_of_classes(params: Params) -> None:
    lanes = adapt_lanes(LEARNER, params, [make_task(2, 3), make_task(5, 1)], 2)
    assert [lane.state["class.mask"].shape for lane in lanes] == [(1, 2), (1, 5)]
    assert all(lane.is_finite and len(lane.loss) == len(lane.accuracy) == 3 for lane in lanes)
    answers = predict_lanes(LEARNER, params, [lane.state for lane in lanes], [torch.rand(4, 1, 16, 16), torch.rand(1, 1, 16, 16)], 100)
    assert [lane.values.shape for lane in answers] == [(4, 2), (1, 5)]


def test_answers_do_not_depend_on_how_the_queries_are_split(params: Params, state: State) -> None:
    queries = torch.rand(20, 1, 16, 16)
    [whole], [pieces] = (predict_lanes(LEARNER, params, [state], [queries], size) for size in (100, 3))
    torch.testing.assert_close(whole.values, pieces.values, rtol=1e-5, atol=1e-5)


def test_a_lane_that_diverges_is_marked_and_the_others_are_not(params: Params) -> None:
    wild = make_task(2, 1)
    wild.inputs.fill_(torch.inf)
    assert [lane.is_finite for lane in adapt_lanes(LEARNER, params, [make_task(2, 1), wild], 2)] == [True, False]


def test_a_state_survives_its_bytes(params: Params, state: State) -> None:
    decoded = decode_state(encode_state(state), make_template(LEARNER, params))
    assert decoded.keys() == state.keys()
    assert all(torch.equal(decoded[name], tensor) for name, tensor in state.items())


def test_bytes_of_another_learner_say_what_was_expected(params: Params, state: State) -> None:
    template = make_template(LEARNER, params)
    with pytest.raises(IncompatibleState, match="expected"):
        decode_state(encode_state({"class.prototypes": torch.zeros(1, 3, 4)}), template)
    with pytest.raises(IncompatibleState, match=r"class.bias is .* \(1, 2\), expected .* \(1, 3\)"):
        decode_state(encode_state({**state, "class.bias": state["class.bias"][:, :2]}), template)


def make_example_state(n_way: int, n_support: int) -> State:
    return {
        "class.mask": torch.ones(1, n_way, dtype=torch.bool),
        "example.mask": torch.ones(1, n_support, dtype=torch.bool),
        "example.feature": torch.rand(1, n_support, 4),
    }


def test_a_state_with_rows_of_examples_may_have_any_number_of_them() -> None:
    state = make_example_state(3, 7)
    decoded = decode_state(encode_state(state), template=make_example_state(2, 2))
    assert all(torch.equal(decoded[name], tensor) for name, tensor in state.items())


@pytest.mark.parametrize(
    ("name", "tensor", "words"),
    [
        ("example.feature", torch.rand(1, 6, 4), r"example.feature is .* \(1, 6, 4\), expected .* \(1, 7, 4\)"),
        ("example.feature", torch.rand(1, 7, 5), r"example.feature is .* \(1, 7, 5\), expected .* \(1, 7, 4\)"),
        ("example.mask", torch.ones(2, 7, dtype=torch.bool), r"example.mask is .* \(2, 7\), expected .* \(1, 7\)"),
        ("example.mask", torch.ones(1, dtype=torch.bool), "expected"),
        ("example.feature", torch.full((1, 7, 4), torch.nan), "not finite"),
    ],
)
def test_rows_of_examples_that_do_not_fit_are_refused(name: str, tensor: torch.Tensor, words: str) -> None:
    encoded = encode_state({**make_example_state(3, 7), name: tensor})
    with pytest.raises(IncompatibleState, match=words):
        decode_state(encoded, template=make_example_state(2, 2))


def make_pair_state(n_way: int, n_support: int) -> State:
    return {**make_example_state(n_way, n_support), "pair.dual": torch.rand(1, n_support, n_way)}


def test_a_state_with_numbers_of_examples_and_classes_may_have_any_number_of_both() -> None:
    state = make_pair_state(3, 7)
    decoded = decode_state(encode_state(state), template=make_pair_state(2, 2))
    assert all(torch.equal(decoded[name], tensor) for name, tensor in state.items())


@pytest.mark.parametrize("shape", [(1, 3, 7), (1, 7, 4), (1, 6, 3), (1, 7), (1, 7, 3, 1), (2, 7, 3)])
def test_numbers_of_other_examples_or_classes_are_refused(shape: tuple[int, ...]) -> None:
    encoded = encode_state({**make_pair_state(3, 7), "pair.dual": torch.rand(shape)})
    with pytest.raises(IncompatibleState, match=r"pair.dual is .*, expected .* \(1, 7, 3\)"):
        decode_state(encoded, template=make_pair_state(2, 2))


def test_a_device_without_room_says_so(params: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(type(LEARNER), "adapt", refuse)
    with pytest.raises(OutOfMemory, match="2 lanes"):
        adapt_lanes(LEARNER, params, [make_task(2, 1), make_task(2, 1)], 1)


def test_answers_are_explained_by_each_tasks_own_examples_as_they_are_alone(params: Params) -> None:
    tasks = [make_task(2, 3), make_task(5, 1)]
    states = [lane.state for lane in adapt_lanes(LEARNER, params, tasks, 2)]
    queries = [torch.rand(4, 1, 16, 16), torch.rand(1, 1, 16, 16)]
    together = predict_lanes(LEARNER, params, states, queries, 6, explained=tasks)
    assert [lane.weights.shape for lane in together if lane.weights is not None] == [(4, 6), (1, 5)]
    for index, lane in enumerate(together):
        [alone] = predict_lanes(LEARNER, params, [states[index]], [queries[index]], 100, explained=[tasks[index]])
        assert lane.weights is not None
        assert alone.weights is not None
        torch.testing.assert_close(lane.weights, alone.weights, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(lane.weights.abs().sum(1), torch.ones(len(queries[index])))


class Silent:
    """A learner that answers and explains nothing."""

    kind = "classification"
    predict = staticmethod(LEARNER.predict)


def test_a_learner_that_explains_nothing_is_not_asked_to(params: Params, state: State) -> None:
    silent: Any = Silent()
    queries = [torch.rand(1, 1, 16, 16)]
    assert predict_lanes(silent, params, [state], queries, 100)[0].weights is None
    with pytest.raises(InvalidOptions, match="cannot say"):
        predict_lanes(silent, params, [state], queries, 100, explained=[make_task(3, 1)])
