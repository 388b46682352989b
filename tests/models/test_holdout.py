from __future__ import annotations

import math

import pytest
import torch

from models.confidence import Confidence
from models.holdout import Fold, score_held_out, score_support_set, split_folds
from models.methods import build_learner
from models.support import make_support

PROTONET = {"method": "protonet", "kind": "classification", "input_shape": [2], "backbone": {"kind": "mlp", "hidden": [4]}}
CURVE = {"method": "maml", "kind": "regression", "input_shape": [1], "backbone": {"kind": "mlp", "hidden": [4]}}


def test_every_example_with_company_is_left_out_once() -> None:
    folds = split_folds([0, 1, 0, 2, 1], 5)
    assert sorted(fold.held_out for fold in folds) == [(0,), (1,), (2,), (4,)]
    assert all(sorted((*fold.shown, *fold.held_out)) == [0, 1, 2, 3, 4] for fold in folds)


def test_single_examples_leave_nothing_to_hold_out() -> None:
    assert split_folds([0, 1, 2], 3) == ()


def test_regression_leaves_out_each_point() -> None:
    assert [fold.held_out for fold in split_folds(None, 3)] == [(0,), (1,), (2,)]
    assert split_folds(None, 1) == ()


@pytest.mark.parametrize(("n_way", "k_shot"), [(2, 50), (20, 5), (7, 3), (40, 2)])
def test_large_support_sets_are_left_out_in_few_folds_and_no_class_vanishes(n_way: int, k_shot: int) -> None:
    targets = [c for c in range(n_way) for _ in range(k_shot)]
    folds = split_folds(targets, len(targets))
    assert len(folds) == 16
    held_out = [position for fold in folds for position in fold.held_out]
    assert len(set(held_out)) == len(held_out) >= 0.9 * len(targets)
    assert all({targets[position] for position in fold.shown} == set(range(n_way)) for fold in folds)


def test_a_class_that_would_be_held_out_whole_keeps_an_example() -> None:
    assert split_folds([0, 0, 1, 1], 4, max_folds=1)[0].shown


def test_the_score_is_that_of_adapting_without_each_example() -> None:
    learner = build_learner(PROTONET)
    params = learner.init(torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(1)
    targets = torch.tensor([0, 1, 0, 1, 1])
    support = make_support(torch.randn(5, 2, generator=generator) + 2 * targets.unsqueeze(1), targets, 2)
    score = score_held_out(learner, params, support, split_folds(targets.tolist(), 5), confidence=Confidence(scale=2.0))
    losses, hits = [], []
    for left in range(5):
        rest = [position for position in range(5) if position != left]
        state = learner.adapt(params, make_support(support.inputs[0, rest], targets[rest], 2)).state
        logits = learner.predict(params, state, support.inputs[:, left : left + 1])[0, 0]
        losses.append(-float((logits / 2).log_softmax(-1)[targets[left]]))
        hits.append(float(logits.argmax() == targets[left]))
    assert score.n == 5
    assert score.loss == pytest.approx(sum(losses) / 5, rel=1e-5)
    assert score.accuracy == pytest.approx(sum(hits) / 5)


def test_uneven_folds_count_each_example_alike() -> None:
    learner = build_learner(CURVE)
    params = learner.init(torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(1)
    support = make_support(torch.randn(5, 1, generator=generator), torch.randn(5, 1, generator=generator))
    uneven = score_held_out(learner, params, support, [Fold((2, 3, 4), (0, 1)), Fold((0, 1, 3, 4), (2,))])
    first = score_held_out(learner, params, support, [Fold((2, 3, 4), (0, 1))])
    second = score_held_out(learner, params, support, [Fold((0, 1, 3, 4), (2,))])
    assert uneven.n == 3
    assert uneven.loss == pytest.approx((2 * first.loss + second.loss) / 3, rel=1e-5)
    assert math.isnan(uneven.accuracy)


def test_without_folds_there_is_no_evidence() -> None:
    learner = build_learner(PROTONET)
    score = score_held_out(learner, learner.init(torch.Generator()), make_support(torch.zeros(2, 2), torch.arange(2), 2), ())
    assert score.n == 0
    assert math.isnan(score.loss)


@pytest.mark.parametrize("k_shot", [2, 12])
def test_the_score_of_a_support_set_knows_no_order_and_no_names(k_shot: int) -> None:
    learner = build_learner(PROTONET)
    params = learner.init(torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(2)
    targets = torch.arange(4).repeat(k_shot)
    inputs = torch.randn(len(targets), 2, generator=generator) + targets.unsqueeze(1)
    shuffle, renamed = torch.randperm(len(targets), generator=generator), torch.tensor([2, 0, 3, 1])
    first = score_support_set(learner, params, make_support(inputs, targets, 4))
    second = score_support_set(learner, params, make_support(inputs[shuffle], renamed[targets[shuffle]], 4))
    assert (first.loss, first.accuracy, first.n) == pytest.approx((second.loss, second.accuracy, second.n), abs=1e-6)
    assert first.n == len(targets)


def test_the_score_is_the_same_in_one_batch_and_in_many() -> None:
    learner = build_learner(CURVE)
    params = learner.init(torch.Generator().manual_seed(0))
    inputs = torch.randn(7, 1, generator=torch.Generator().manual_seed(3))
    support = make_support(inputs, 2 * inputs)
    whole, parts = (score_support_set(learner, params, support, 2, max_samples=most) for most in (1000, 10))
    assert whole.n == parts.n == 7
    assert whole.loss == pytest.approx(parts.loss, rel=1e-5)
    alone = score_support_set(learner, params, make_support(inputs[:1], inputs[:1]))
    assert (alone.n, math.isnan(alone.loss)) == (0, True)


def test_what_is_not_fresh_is_neither_asked_for_nor_missed_by_the_others() -> None:
    learner = build_learner(CURVE)
    params = learner.init(torch.Generator().manual_seed(0))
    inputs = torch.tensor([[2.0], [-1.0], [0.5], [1.0]])
    support = make_support(inputs, 2 * inputs)
    some = score_support_set(learner, params, support, 2, fresh=[True, False, False, True])
    by_hand = score_held_out(learner, params, support, [Fold((1, 2, 3), (0,)), Fold((0, 1, 2), (3,))], 2)
    assert some.n == 2
    assert some.loss == pytest.approx(by_hand.loss, rel=1e-5)
    none = score_support_set(learner, params, support, 2, fresh=[False] * 4)
    assert (none.n, math.isnan(none.loss)) == (0, True)
