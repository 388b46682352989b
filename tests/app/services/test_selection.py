"""The arithmetic of the choice, against numbers worked out here."""

from __future__ import annotations

import math
from typing import Any

import pytest

from app.domain import InitializerInfo, InitializerRef, InputSpec, Limits
from app.engine.interface import HeldOut
from app.services.selection import (
    PRIOR_EXAMPLES,
    Candidate,
    Trial,
    choose,
    expect_loss,
    expect_untried,
    level_priors,
    list_steps,
    order,
    pick_next,
    score,
)

NOTHING = HeldOut(math.nan, math.nan, 0)


def info(*, default_steps: int = 2, max_steps: int = 10, kind: Any = "classification", **losses: float) -> InitializerInfo:
    """An initializer with validation losses such as w5s1=0.2."""
    settings = [(name[1:].split("s"), loss) for name, loss in losses.items()]
    rows = [{"n_way": int(n_way), "k_shot": int(k_shot), "loss": loss, "accuracy": 90.0} for (n_way, k_shot), loss in settings]
    card = {"confidence": {"validation": rows}} if rows else {}
    return InitializerInfo(
        InitializerRef("a", 1), kind, InputSpec("vector", (2,)), Limits(2, 50, 100, max_steps), default_steps, "sha", card
    )


def candidate(name: str, steps: int = 1, prior: float | None = 1.0) -> Candidate:
    return Candidate(InitializerRef(name, 1), steps, prior)


def trial(of: Candidate, value: float) -> Trial:
    return Trial(of, HeldOut(value, 1.0, 5), value)


def test_a_measured_setting_is_expected_to_cost_what_was_measured() -> None:
    card = info(w5s1=0.4, w5s5=0.1, w20s1=0.9)
    assert expect_loss(card, 5, 1) == pytest.approx(0.4)
    assert expect_loss(card, 20, 1) == pytest.approx(0.9)


def test_between_settings_the_nearer_one_counts_for_more_as_a_part_of_guessing() -> None:
    card = info(w5s1=0.4, w5s5=0.1)
    near, far = math.log(2) ** -2, math.log(5 / 2) ** -2
    assert expect_loss(card, 5, 2) == pytest.approx((near * 0.4 + far * 0.1) / (near + far))
    only = info(w5s1=0.4)
    assert expect_loss(only, 20, 7) == pytest.approx(0.4 / math.log(5) * math.log(20))


def test_a_card_without_figures_is_expected_to_guess_and_regression_has_no_prior() -> None:
    assert expect_loss(info(), 5, 1) == pytest.approx(math.log(5))
    assert expect_loss(info(kind="regression"), 5, 1) is None


def test_the_best_of_each_data_set_start_nearly_level_and_the_others_behind_them_as_before() -> None:
    near, far, hard, harder = (InitializerRef(name, 1) for name in ("near", "far", "hard", "harder"))
    data = {near: "easy", far: "easy", hard: "icons", harder: "icons"}
    levelled = level_priors({near: 0.02, far: 0.05, hard: 0.5, harder: 0.7}, data)
    assert (levelled[near], levelled[far]) == (0.02, 0.05)
    assert 0.02 < levelled[hard] < 0.021
    assert levelled[harder] - levelled[hard] == pytest.approx(0.2)
    assert level_priors({}, {}) == {}


def test_of_initializers_of_other_data_the_held_out_examples_decide() -> None:
    """With cards as they are, fifty examples of a card that speaks of easier data outweighed all that the task could say."""
    characters, icons = InitializerRef("characters", 1), InitializerRef("icons", 1)
    priors = level_priors({characters: 0.02, icons: 0.5}, {characters: "omniglot", icons: "icons"})
    assert score(priors[icons], HeldOut(0.3, 0.9, 25)) < score(priors[characters], HeldOut(0.6, 0.8, 25))
    assert score(0.5, HeldOut(0.3, 0.9, 25)) > score(0.02, HeldOut(0.6, 0.8, 25))


def test_the_score_weighs_the_card_as_so_many_examples() -> None:
    assert score(0.5, HeldOut(1.0, 1.0, 30), prior_examples=10.0) == pytest.approx((10 * 0.5 + 30 * 1.0) / 40)
    assert score(0.5, HeldOut(1.0, 1.0, int(PRIOR_EXAMPLES))) == pytest.approx(0.75)
    assert score(0.5, NOTHING) == 0.5
    assert score(0.5, HeldOut(math.nan, 0.0, 3)) == math.inf


def test_regression_is_judged_by_three_points_or_more_alone() -> None:
    assert score(None, HeldOut(4.0, math.nan, 3)) == 4.0
    assert score(None, HeldOut(4.0, math.nan, 2)) == score(None, NOTHING) == 0.0


@pytest.mark.parametrize(("own", "most", "expected"), [(2, 10, (2, 1, 4)), (2, 3, (2, 1)), (1, 10, (1, 2)), (0, 0, (0,)), (5, 5, (5, 1))])
def test_the_own_number_of_steps_comes_first_then_one_and_twice_as_many(own: int, most: int, expected: tuple[int, ...]) -> None:
    assert list_steps(info(default_steps=own, max_steps=most)) == expected


def test_each_initializer_is_tried_once_before_other_steps_of_the_best_one() -> None:
    found = order([candidate("b", 2), candidate("b", 1), candidate("a", 3, 2.0), candidate("a", 1, 2.0)])
    first, second = candidate("b", 2), candidate("a", 3, 2.0)
    assert pick_next(found, []) == first
    assert pick_next(found, [trial(first, 0.9)]) == second
    tried = [trial(first, 0.9), trial(second, 0.1)]
    assert pick_next(found, tried) == candidate("a", 1, 2.0)
    assert pick_next(found, [*tried, trial(candidate("a", 1, 2.0), 0.2)]) == candidate("b", 1)
    assert pick_next(found[:1], tried) is None


def test_equal_scores_go_to_the_first_and_equal_priors_to_the_first_name() -> None:
    first, second = trial(candidate("a"), 0.5), trial(candidate("b"), 0.5)
    assert choose([first, second]) is first
    assert [each.ref.name for each in order([candidate("b"), candidate("a"), candidate("c", prior=0.5)])] == ["c", "a", "b"]


def test_only_an_initializer_that_promises_more_than_all_that_were_tried_counts_untried() -> None:
    candidates = order(
        [candidate("a", 2, 0.1), candidate("a", 1, 0.1), candidate("b", 1, 0.3), candidate("c", 1, 0.3), candidate("d", 1, 0.9)]
    )
    assert [each.candidate for each in expect_untried(candidates, [])] == [candidates[0], *candidates[2:]]
    [untried] = expect_untried(candidates, [trial(candidate("b", 1, 0.3), 0.5), trial(candidate("d", 1, 0.9), 1.3)])
    assert untried.candidate == candidate("a", 2, 0.1)
    assert untried.score == pytest.approx(0.1 + 0.3)
    assert expect_untried([candidate("r", 1, None)], []) == []
