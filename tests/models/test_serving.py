from __future__ import annotations

import pytest
import torch

from models import serving
from models.errors import InvalidOptions, OutOfMemory
from models.methods import build_learner
from models.serving import adapt_lanes, mixes_steps
from models.support import Params, Support, make_support

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


def test_every_lane_keeps_its_own_number_of_classes(params: Params) -> None:
    lanes = adapt_lanes(LEARNER, params, [make_task(2, 3), make_task(5, 1)], 2)
    assert [lane.state["class.mask"].shape for lane in lanes] == [(1, 2), (1, 5)]
    assert all(lane.is_finite and len(lane.loss) == len(lane.accuracy) == 3 for lane in lanes)


def test_lanes_of_different_steps_share_a_batch_and_each_is_bit_for_bit_what_it_is_alone(params: Params) -> None:
    tasks, steps = [make_task(2, 3), make_task(5, 1), make_task(3, 2)], [3, 0, 1]
    assert mixes_steps(LEARNER, params)
    for task, count, lane in zip(tasks, steps, adapt_lanes(LEARNER, params, tasks, steps), strict=True):
        [alone] = adapt_lanes(LEARNER, params, [task], count)
        assert (lane.loss, lane.accuracy) == (alone.loss, alone.accuracy)
        assert len(lane.loss) == count + 1
        assert all(torch.equal(tensor, alone.state[name]) for name, tensor in lane.state.items())


def test_a_learner_whose_lanes_stay_to_the_end_takes_equal_steps_only() -> None:
    spec = {"method": "maml", "kind": "classification", "input_shape": [6], "backbone": {"kind": "mlp", "hidden": [8]}}
    learner = build_learner(spec)
    params = learner.init(torch.Generator().manual_seed(0))
    tasks = [make_support(torch.rand(2, 6), torch.arange(2), 2) for _ in range(2)]
    assert not mixes_steps(learner, params)
    assert [len(lane.loss) for lane in adapt_lanes(learner, params, tasks, [2, 2])] == [3, 3]
    with pytest.raises(InvalidOptions, match="equal steps"):
        adapt_lanes(learner, params, tasks, [2, 1])


@pytest.mark.parametrize("most_alone", [0, serving.MOST_ALONE])
def test_a_lane_that_diverges_is_marked_and_the_others_are_not(params: Params, most_alone: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "MOST_ALONE", most_alone)
    wild = make_task(2, 1)
    wild.inputs.fill_(torch.inf)
    assert [lane.is_finite for lane in adapt_lanes(LEARNER, params, [make_task(2, 1), wild], 2)] == [True, False]


def test_numbers_are_found_finite_or_not_however_many_threads_sum_them_up(monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = [torch.zeros(4, 3, 2), torch.zeros(4, 2, 3).mT, torch.ones(4, 1), torch.zeros(4, 2, dtype=torch.bool)]
    tensors[0][1, 2, 0], tensors[1][2, 1, 1], tensors[1][2, 0, 0] = torch.nan, torch.inf, -torch.inf
    for most_alone in (0, serving.MOST_ALONE):
        monkeypatch.setattr(serving, "MOST_ALONE", most_alone)
        assert serving._find_finite(tensors) == [True, False, False, True]


def test_a_device_without_room_says_so(params: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(type(LEARNER), "adapt", refuse)
    with pytest.raises(OutOfMemory, match="2 lanes"):
        adapt_lanes(LEARNER, params, [make_task(2, 1), make_task(2, 1)], 1)
