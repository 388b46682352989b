from __future__ import annotations

import math

import pytest
import torch

from models.confidence import Confidence, calibrate, parse_confidence, read_cues
from models.errors import CheckpointCorrupt

LOGITS = torch.tensor([[[2.0, 1.0, 0.0], [0.5, 0.4, 0.3]], [[1.0, 3.0, -torch.inf], [0.0, 0.0, -torch.inf]]])
UNKNOWN = (-1.0, -0.5, 0.3, 0.2, 1.0)


def test_without_figures_probabilities_are_the_softmax_and_there_is_no_score() -> None:
    probabilities, unknown = calibrate(LOGITS, parse_confidence({}))
    assert unknown is None
    assert torch.allclose(probabilities, LOGITS.softmax(-1))


def test_the_temperature_grows_with_the_ways_of_each_lane() -> None:
    probabilities, _ = calibrate(LOGITS, Confidence(scale=2.0, power=0.5))
    assert torch.allclose(probabilities[0], (LOGITS[0] / (2 * math.sqrt(3))).softmax(-1))
    assert torch.allclose(probabilities[1], (LOGITS[1] / (2 * math.sqrt(2))).softmax(-1))
    assert probabilities[1, :, 2].eq(0).all()


def test_calibrating_changes_no_answer() -> None:
    probabilities, _ = calibrate(LOGITS, Confidence(scale=7.0, power=-0.3, unknown=UNKNOWN))
    assert torch.equal(probabilities.argmax(-1), LOGITS.argmax(-1))


def test_cues_are_the_largest_logit_its_lead_its_share_and_the_ways() -> None:
    cues = read_cues(LOGITS)
    assert torch.allclose(cues[1, 0], torch.tensor([3.0, 2.0, math.log(1 + math.exp(-2)), math.log(2)]))


def test_a_query_far_from_every_class_is_more_likely_unknown() -> None:
    near, far = torch.tensor([[[0.0, -20.0]]]), torch.tensor([[[-30.0, -31.0]]])
    scores = [calibrate(logits, Confidence(unknown=UNKNOWN))[1] for logits in (near, far)]
    assert scores[0] is not None
    assert scores[1] is not None
    assert 0 < scores[0] < 0.01 < 0.99 < scores[1] <= 1


def test_a_lane_is_scored_alike_alone_and_with_classes_it_does_not_have() -> None:
    confidence = Confidence(1.3, 0.2, UNKNOWN)
    alone, together = calibrate(LOGITS[1:, :, :2], confidence), calibrate(LOGITS[1:], confidence)
    assert torch.equal(alone[0], together[0][..., :2])
    assert alone[1] is not None
    assert together[1] is not None
    assert torch.equal(alone[1], together[1])


@pytest.mark.parametrize(
    "section", [{"scale": 0.0}, {"scale": "warm"}, {"unknown": [1.0]}, {"unknown": [math.inf] * 5}, {"power": math.nan}, {"unknown": 3}]
)
def test_figures_that_make_no_sense_are_refused(section: dict[str, object]) -> None:
    with pytest.raises(CheckpointCorrupt, match=r"card\.confidence must hold"):
        parse_confidence(section)


def test_figures_survive_the_card() -> None:
    confidence = Confidence(1.5, -0.1, UNKNOWN)
    assert parse_confidence({**confidence.to_json(), "measured": []}) == confidence
