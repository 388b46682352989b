from __future__ import annotations

import pytest
import torch
from torch import Tensor

from models.confidence import Confidence, calibrate
from models.episodes import EpisodeShape, ImageClasses
from models.evaluation.calibration import (
    OpenAnswers,
    Setting,
    answer_open_episodes,
    calibration_error,
    fit_confidence,
    keep_ways,
    measure_confidence,
)
from models.methods import build_learner


def overconfident_answers(n_way: int, sharpness: float, n: int = 4000) -> OpenAnswers:
    """Answers whose true class is drawn from the softmax of the logits before they were multiplied by `sharpness`."""
    generator = torch.Generator().manual_seed(n_way)
    logits = 2 * torch.randn(n, n_way, generator=generator)
    targets = torch.multinomial(logits.softmax(-1), 1, generator=generator)[:, 0]
    return OpenAnswers(sharpness * logits, targets, sharpness * 2 * torch.randn(n, n_way, generator=generator) - 3)


def test_the_temperature_that_was_put_in_is_found_again() -> None:
    confidence = fit_confidence([overconfident_answers(5, 3.0), overconfident_answers(20, 3.0)])
    for n_way in (5, 20):
        assert confidence.scale * n_way**confidence.power == pytest.approx(3.0, rel=0.08)


def test_calibrated_probabilities_mean_what_they_say_and_the_others_did_not() -> None:
    confidence = fit_confidence([overconfident_answers(5, 3.0)])
    row = measure_confidence(overconfident_answers(5, 3.0), Setting(5, 1), confidence)
    assert row["ece"] < 3 < 10 < row["ece_uncalibrated"]


def test_a_few_sure_and_wrong_answers_do_not_spoil_what_is_calibrated() -> None:
    """Their likelihood alone asks for a high temperature, at which all the others would be too modest."""
    calm = overconfident_answers(5, 1.0)
    spoilt = OpenAnswers(calm.known.clone(), calm.targets.clone(), calm.unknown)
    spoilt.known[:40] = 100 * torch.eye(5)[(calm.targets[:40] + 1) % 5]
    assert fit_confidence([overconfident_answers(5, 3.0)]).scale > 2
    confidence = fit_confidence([spoilt])
    assert (confidence.scale, confidence.power) == (1.0, 0.0)


def test_the_calibration_error_is_the_gap_between_confidence_and_accuracy() -> None:
    probabilities = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.6, 0.4]])
    assert calibration_error(probabilities, torch.tensor([0, 1, 0, 0])) == pytest.approx((abs(0.9 - 0.5) * 2 + abs(0.6 - 1.0) * 2) / 4)


def test_queries_of_no_class_get_the_higher_score() -> None:
    answers = overconfident_answers(5, 1.0)
    row = measure_confidence(answers, Setting(5, 1), fit_confidence([answers]))
    assert row["unknown_auroc"] > 0.8


def test_an_initializer_is_asked_about_classes_that_its_support_set_does_not_have() -> None:
    """Pixels as features: queries of the left-out classes lie far from every prototype."""
    patterns = torch.rand(12, 1, 4, 4, generator=torch.Generator().manual_seed(1)).mul(200)
    noise = torch.rand(12, 10, 4, 4, generator=torch.Generator().manual_seed(2)).mul(30)
    source = ImageClasses((patterns + noise).to(torch.uint8))
    learner = build_learner(
        {"method": "protonet", "kind": "classification", "input_shape": [1, 4, 4], "backbone": {"kind": "mlp", "hidden": [16]}}
    )
    params = {name: 3 * tensor for name, tensor in learner.init(torch.Generator().manual_seed(0)).items()}
    setting = Setting(n_way=4, k_shot=2, n_query=3, episodes=20)
    answers = answer_open_episodes(learner, params, source, setting, seed=0)
    assert answers.known.shape == (20 * 4 * 3, 4)
    assert answers.unknown.shape == (20 * 4 * 3, 4)
    assert (answers.known.argmax(-1) == answers.targets).float().mean() > 0.9
    unknown = calibrate(torch.stack([answers.known, answers.unknown]), fit_confidence([answers]))[1]
    assert isinstance(unknown, Tensor)
    assert unknown[0].mean() < 0.3 < 0.7 < unknown[1].mean()


def test_keeping_ways_keeps_every_query() -> None:
    images = torch.arange(6, dtype=torch.uint8).view(6, 1, 1, 1).expand(6, 5, 2, 2)
    batch = ImageClasses(images).draw(EpisodeShape(6, 2, 1, tasks=3), torch.Generator().manual_seed(0))
    kept = keep_ways(batch, 3)
    assert kept.support.inputs.shape[:2] == (3, 6)
    assert kept.support.targets.max() == 2
    assert kept.support.max_way == 3
    assert kept.query_targets.max() == 5


def test_nothing_is_fitted_to_a_temperature_of_one() -> None:
    assert Confidence().to_json() == {"scale": 1.0, "power": 0.0, "unknown": []}
