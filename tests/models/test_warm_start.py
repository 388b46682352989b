from __future__ import annotations

import math

import pytest
import torch

from models.confidence import Confidence
from models.errors import IncompatibleState, InvalidOptions
from models.holdout import split_folds
from models.learner import Adaptation, Learner
from models.methods import build_learner
from models.serving import adapt_lanes
from models.support import Params, Support, make_support
from models.warm_start import decode_params, encode_params, try_start

MLP = {"kind": "mlp", "hidden": [16, 8]}
SINE = build_learner({"method": "maml", "kind": "regression", "input_shape": [1], "inner_steps": 5, "inner_lr": 0.05, "backbone": MLP})
SIGNS = build_learner({"method": "maml", "kind": "classification", "input_shape": [6], "backbone": MLP})


@pytest.fixture
def params() -> Params:
    return SINE.init(torch.Generator().manual_seed(0))


def make_line(slope: float, points: int) -> Support:
    inputs = torch.linspace(-1, 1, points).unsqueeze(1)
    return make_support(inputs, slope * inputs)


def test_weights_of_an_equal_task_win_and_those_of_an_opposite_one_lose(params: Params) -> None:
    task, everything = make_line(2.0, 5), [True] * 5
    equal, opposite = (adapt_lanes(SINE, params, [make_line(slope, 40)], 50)[0].state for slope in (2.0, -2.0))
    good, bad = (try_start(SINE, params, state, task, everything, 1, Confidence()) for state in (equal, opposite))
    assert good.n_held_out == bad.n_held_out == 5
    assert good.cold == bad.cold
    assert good.warm < good.cold < bad.warm


def test_the_start_holds_the_other_tasks_weights_and_params_are_left_alone(params: Params) -> None:
    before = {name: tensor.clone() for name, tensor in params.items()}
    [other] = adapt_lanes(SINE, params, [make_line(1.0, 9)], 3)
    trial = try_start(SINE, params, other.state, make_line(2.0, 5), [True] * 5, 2, Confidence())
    assert all(torch.equal(trial.start[name], other.state[name][0]) for name in params)
    assert all(torch.equal(params[name], tensor) for name, tensor in before.items())
    [started] = adapt_lanes(SINE, params, [make_line(1.0, 9)], 0, trial.start)
    assert all(torch.equal(started.state[name], other.state[name]) for name in params)


def test_only_fresh_examples_are_held_out(params: Params) -> None:
    [other] = adapt_lanes(SINE, params, [make_line(1.0, 9)], 3)
    some, none = (
        try_start(SINE, params, other.state, make_line(2.0, 4), f, 2, Confidence()) for f in ([True, False, False, True], [False] * 4)
    )
    assert (some.n_held_out, none.n_held_out) == (2, 0)
    assert math.isnan(none.cold)
    assert math.isnan(none.warm)


def test_the_losses_know_no_order_of_the_examples(params: Params) -> None:
    inputs = torch.randn(20, 1, generator=torch.Generator().manual_seed(4))
    fresh = [position % 3 != 0 for position in range(20)]
    shuffle = torch.randperm(20, generator=torch.Generator().manual_seed(5)).tolist()
    [other] = adapt_lanes(SINE, params, [make_line(1.0, 9)], 3)
    first = try_start(SINE, params, other.state, make_support(inputs, 2 * inputs.square()), fresh, 2, Confidence())
    moved = make_support(inputs[shuffle], 2 * inputs[shuffle].square())
    second = try_start(SINE, params, other.state, moved, [fresh[position] for position in shuffle], 2, Confidence())
    assert first.n_held_out == second.n_held_out == sum(fresh)
    assert (first.cold, first.warm) == pytest.approx((second.cold, second.warm), rel=1e-5)


@pytest.mark.parametrize(("points", "max_samples", "lanes"), [(20, 40, 2), (20, 10_000, 12), (100, 1, 1), (300, 10_000, 3)])
def test_no_batch_is_larger_than_told_and_the_folds_are_as_few_as_a_score_has(
    params: Params, monkeypatch: pytest.MonkeyPatch, points: int, max_samples: int, lanes: int
) -> None:
    [other] = adapt_lanes(SINE, params, [make_line(1.0, 9)], 3)
    adapt, seen = type(SINE).adapt, list[int]()

    def spy(learner: Learner, weights: Params, support: Support, steps: int | None = None) -> Adaptation:
        seen.append(support.inputs.shape[0])
        return adapt(learner, weights, support, steps)

    monkeypatch.setattr(type(SINE), "adapt", spy)
    trial = try_start(SINE, params, other.state, make_line(2.0, points), [True] * points, 1, Confidence(), max_samples)
    assert trial.n_held_out == points
    assert max(seen) == lanes
    assert sum(seen) * points <= 2 * max(256, 3 * points)


def test_a_start_that_diverges_has_an_infinite_loss(params: Params) -> None:
    [other] = adapt_lanes(SINE, params, [make_line(1.0, 9)], 3)
    wild = {name: tensor * 1e25 for name, tensor in other.state.items()}
    assert try_start(SINE, params, wild, make_line(2.0, 4), [True] * 4, 2, Confidence()).warm == math.inf


def test_the_classes_of_the_other_task_play_no_role() -> None:
    params = SIGNS.init(torch.Generator().manual_seed(0))
    inputs = torch.randn(10, 6, generator=torch.Generator().manual_seed(1))
    [other] = adapt_lanes(SIGNS, params, [make_support(inputs, torch.arange(10) % 5, 5)], 2)
    task = make_support(inputs[:6] + 0.1, torch.arange(6) % 2, 2)
    trial = try_start(SIGNS, params, other.state, task, [True] * 6, 2, Confidence())
    assert trial.start.keys() == params.keys()
    assert trial.n_held_out == sum(len(fold.held_out) for fold in split_folds((torch.arange(6) % 2).tolist(), 6))
    assert trial.cold > 0
    assert trial.warm > 0


def test_a_learner_without_initial_weights_is_refused() -> None:
    protonet = build_learner({"method": "protonet", "kind": "classification", "input_shape": [6], "backbone": MLP})
    params = protonet.init(torch.Generator().manual_seed(0))
    task = make_support(torch.randn(4, 6), torch.arange(4) % 2, 2)
    with pytest.raises(InvalidOptions, match="cannot start"):
        try_start(protonet, params, {}, task, [True] * 4, 0, Confidence())


def test_starting_weights_survive_their_bytes_and_others_are_refused(params: Params) -> None:
    encoded = encode_params(params)
    assert encode_params(decode_params(encoded, params)) == encoded
    nan = {**params, "head.bias": params["head.bias"] * torch.nan}
    cut = {**params, "head.bias": params["head.bias"][:0]}
    for wrong in (b"nothing", encode_params({"head.bias": params["head.bias"]}), encode_params(nan), encode_params(cut)):
        with pytest.raises(IncompatibleState):
            decode_params(wrong, params)
