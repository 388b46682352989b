"""Fits and measures an initializer's confidence: on validation classes what is chosen, on test classes what is reported.

Every episode is drawn with twice its ways; the support set holds the first half of the classes, and the queries of the
second half belong to none of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from torch import Tensor

from models.confidence import MIN_PROBABILITY, Confidence, calibrate, read_cues
from models.episodes import EpisodeBatch, EpisodeShape, EpisodeSource, open_episodes, stack_episodes
from models.errors import InvalidOptions
from models.learner import Learner
from models.support import Params, Support

N_BINS = 15
BATCH = 10


@dataclass(frozen=True)
class Setting:
    """Episodes of one kind: ways of the support set, shots, and queries of each known and unknown class."""

    n_way: int
    k_shot: int
    n_query: int = 2
    episodes: int = 300


SETTINGS = (Setting(5, 1), Setting(5, 5), Setting(20, 1, episodes=100), Setting(20, 5, episodes=100))
VALIDATION_SEED, TEST_SEED = 1_000_003, 0


@dataclass(frozen=True)
class OpenAnswers:
    """Logits of queries of known classes with their targets, and of queries that belong to no class; CPU."""

    known: Tensor  # (n_known, n_way)
    targets: Tensor  # (n_known,)
    unknown: Tensor  # (n_unknown, n_way)


def certify_confidence(learner: Learner, params: Params, data: str, max_way: int) -> dict[str, Any]:
    """The card's `confidence`: figures fitted on validation classes, and under `measured` what they do on test classes.

    `validation` is the loss to expect, for who must choose an initializer (`models.holdout`): test classes choose nothing.

    Empty for regression, and for data with fewer than ten classes in a split. Costs 800 episodes of each split: a quarter of a minute
    for Conv-4 prototypes on one core.
    """
    if learner.kind == "regression":
        return {}
    validation, test = open_episodes(data, "validation"), open_episodes(data, "test")
    settings = [setting for setting in SETTINGS if setting.n_way <= max_way and _can_draw(setting, validation) and _can_draw(setting, test)]
    if not settings:
        return {}
    judged = [answer_open_episodes(learner, params, validation, setting, VALIDATION_SEED) for setting in settings]
    confidence = fit_confidence(judged)
    expected = [measure_loss(part, setting, confidence) for part, setting in zip(judged, settings, strict=True)]
    answers = [answer_open_episodes(learner, params, test, setting, TEST_SEED) for setting in settings]
    rows = [measure_confidence(part, setting, confidence) for part, setting in zip(answers, settings, strict=True)]
    return {**confidence.to_json(), "validation": expected, "measured": rows}


def _can_draw(setting: Setting, source: EpisodeSource) -> bool:
    """Whether the source has twice the ways in classes, and examples enough."""
    try:
        source.draw(EpisodeShape(2 * setting.n_way, setting.k_shot, setting.n_query, tasks=1), torch.Generator().manual_seed(0))
    except InvalidOptions:
        return False
    return True


def answer_open_episodes(learner: Learner, params: Params, source: EpisodeSource, setting: Setting, seed: int) -> OpenAnswers:
    """The logits of `setting.episodes` episodes. Raises InvalidOptions when the source has too few classes."""
    generator = torch.Generator().manual_seed(seed)
    shape = EpisodeShape(2 * setting.n_way, setting.k_shot, setting.n_query, tasks=1)
    answers = []
    for first in range(0, setting.episodes, BATCH):
        tasks = min(BATCH, setting.episodes - first)
        batch = stack_episodes([keep_ways(source.draw(shape, generator), setting.n_way) for _ in range(tasks)])
        batch = batch.to(next(iter(params.values())).device)
        state = learner.adapt(params, batch.support).state
        with torch.no_grad():
            logits = learner.predict(params, state, batch.query_inputs).cpu().flatten(0, 1)
        targets = batch.query_targets.cpu().flatten()
        answers.append(OpenAnswers(logits[targets < setting.n_way], targets[targets < setting.n_way], logits[targets >= setting.n_way]))
    return OpenAnswers(*(torch.cat([getattr(part, name) for part in answers]) for name in ("known", "targets", "unknown")))


def keep_ways(batch: EpisodeBatch, n_way: int) -> EpisodeBatch:
    """The episodes with a support set of the first `n_way` classes only; all queries stay. Every class has equally many examples."""
    support = batch.support
    n_kept = support.inputs.shape[1] * n_way // support.max_way
    inputs, targets = support.inputs[:, :n_kept], support.targets[:, :n_kept]
    return replace(batch, support=Support(inputs, targets, support.mask[:, :n_kept], support.class_mask[:, :n_way]))


def fit_confidence(answers: Sequence[OpenAnswers]) -> Confidence:
    """Temperature by the smallest negative log likelihood, and the score of the unknown by logistic regression.

    A temperature that does not also lessen the calibration error of these answers is none: where plain probabilities are
    calibrated, the likelihood of a few wrong answers would decide it.
    """
    scale, power = _fit_temperature(answers)
    if _mean_error(answers, Confidence(scale, power)) >= _mean_error(answers, Confidence()):
        scale, power = 1.0, 0.0
    cues = np.concatenate([_stack_cues(part) for part in answers])
    is_unknown = np.concatenate([_stack_labels(part) for part in answers])
    centre, spread = cues.mean(0), cues.std(0) + 1e-12
    fit = LogisticRegression(C=1.0, max_iter=1000, class_weight="balanced").fit((cues - centre) / spread, is_unknown)
    weights = fit.coef_[0] / spread
    return Confidence(scale, power, (*weights.tolist(), float(fit.intercept_[0] - weights @ centre)))


def _mean_error(answers: Sequence[OpenAnswers], confidence: Confidence) -> float:
    """The calibration error over the settings, each alike."""
    return float(np.mean([calibration_error(calibrate(part.known.unsqueeze(0), confidence)[0][0], part.targets) for part in answers]))


def measure_loss(answers: OpenAnswers, setting: Setting, confidence: Confidence) -> dict[str, Any]:
    """Mean negative log likelihood and accuracy (percent) of the queries of known classes."""
    probabilities = calibrate(answers.known.double().unsqueeze(0), confidence)[0][0]
    likelihood = probabilities.gather(1, answers.targets.unsqueeze(1)).clamp(min=MIN_PROBABILITY)
    hits = probabilities.argmax(-1) == answers.targets
    loss, accuracy = -float(likelihood.log().mean()), 100 * float(hits.double().mean())
    return {"n_way": setting.n_way, "k_shot": setting.k_shot, "loss": round(loss, 5), "accuracy": round(accuracy, 3)}


def measure_confidence(answers: OpenAnswers, setting: Setting, confidence: Confidence) -> dict[str, Any]:
    """One row for the card: the expected calibration error without and with the temperature (percent), and the AUROC."""
    plain, _ = calibrate(answers.known.unsqueeze(0), Confidence())
    probabilities, _ = calibrate(answers.known.unsqueeze(0), confidence)
    scores = [calibrate(logits.unsqueeze(0), confidence)[1] for logits in (answers.known, answers.unknown)]
    if scores[0] is None or scores[1] is None:
        raise ValueError("an unknown score was expected. This is a bug.")
    return {
        "n_way": setting.n_way,
        "k_shot": setting.k_shot,
        "episodes": setting.episodes,
        "ece_uncalibrated": round(100 * calibration_error(plain[0], answers.targets), 3),
        "ece": round(100 * calibration_error(probabilities[0], answers.targets), 3),
        "unknown_auroc": round(
            float(roc_auc_score(_stack_labels(answers), torch.cat([part[0] for part in scores if part is not None]))), 4
        ),
    }


def calibration_error(probabilities: Tensor, targets: Tensor) -> float:
    """Expected calibration error over 15 equal bins of the largest probability (Guo et al. 2017, eq. 3), in [0, 1]."""
    confidence, answer = probabilities.max(-1)
    bins = (confidence * N_BINS).long().clamp(max=N_BINS - 1)
    gap = confidence.double() - (answer == targets).double()
    return float(torch.zeros(N_BINS, dtype=torch.float64).index_add(0, bins, gap).abs().sum() / len(targets))


def _fit_temperature(answers: Sequence[OpenAnswers]) -> tuple[float, float]:
    """The scale and the power of the number of ways. The power stays 0 when all episodes have equally many ways."""
    is_varied = len({part.known.shape[1] for part in answers}) > 1

    def loss(values: np.ndarray[Any, Any]) -> float:
        confidence = Confidence(float(np.exp(values[0])), float(values[1]) if is_varied else 0.0)
        parts = [-calibrate(a.known.double()[None], confidence)[0][0].gather(1, a.targets[:, None]).clamp(min=1e-30).log() for a in answers]
        return float(sum(part.mean() for part in parts))

    best = minimize(loss, np.zeros(2), method="Nelder-Mead", options={"xatol": 1e-4, "fatol": 1e-7, "maxiter": 400}).x
    return float(np.exp(best[0])), float(best[1]) if is_varied else 0.0


def _stack_cues(answers: OpenAnswers) -> np.ndarray[Any, Any]:
    cues: np.ndarray[Any, Any] = torch.cat([read_cues(answers.known[None])[0], read_cues(answers.unknown[None])[0]]).double().numpy()
    return cues


def _stack_labels(answers: OpenAnswers) -> np.ndarray[Any, Any]:
    return np.concatenate([np.zeros(len(answers.known)), np.ones(len(answers.unknown))])
