from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from models.episodes import EpisodeBatch, EpisodeShape, ImageClasses, Sinusoid
from models.errors import InvalidOptions
from models.evaluation import EvaluationPlan, measure
from models.learner import Adaptation, Kind
from models.methods import build_learner
from models.support import Params, State, Support


@dataclass(frozen=True)
class Nearest:
    """Class means of flattened pixels; with `is_transductive`, of queries centred on their own mean, which breaks law 2."""

    is_transductive: bool = False
    kind: Kind = "classification"
    input_shape: tuple[int, ...] = (1, 4, 4)
    default_steps: int = 0

    def init(self, generator: torch.Generator) -> Params:
        return {"unused": torch.zeros(1)}

    def adapt(self, params: Params, support: Support, steps: int | None = None, *, differentiable: bool = False) -> Adaptation:
        members = torch.nn.functional.one_hot(support.targets).float()
        means = members.mT @ support.inputs.flatten(2) / members.sum(1).unsqueeze(-1)
        nothing = torch.zeros(support.lanes, 1)
        return Adaptation({"class.means": means, "class.mask": support.class_mask}, nothing, nothing)

    def predict(self, params: Params, state: State, queries: Tensor) -> Tensor:
        flat = queries.flatten(2)
        if self.is_transductive:
            flat = flat - flat.mean(1, keepdim=True) + state["class.means"].mean(1, keepdim=True)
        return -torch.cdist(flat, state["class.means"])


@dataclass(frozen=True)
class Shifted:
    """Episodes whose queries all carry an offset that only their own mean can reveal."""

    source: ImageClasses
    kind: Kind = "classification"
    input_shape: tuple[int, ...] = (1, 4, 4)

    def draw(self, shape: EpisodeShape, generator: torch.Generator) -> EpisodeBatch:
        batch = self.source.draw(shape, generator)
        return EpisodeBatch(batch.support, batch.query_inputs + 3 * torch.randn(1, 4, 4, generator=generator), batch.query_targets)


def noisy_classes() -> ImageClasses:
    generator = torch.Generator().manual_seed(0)
    patterns = torch.randint(0, 190, (20, 1, 4, 4), generator=generator)
    return ImageClasses((patterns + torch.randint(0, 60, (20, 20, 4, 4), generator=generator)).to(torch.uint8))


def plan(**changes: Any) -> EvaluationPlan:
    return EvaluationPlan(**{"n_way": 5, "k_shot": 1, "episodes": 200, "n_query": 3, **changes})


def hard_classes() -> ImageClasses:
    """Patterns that drown in noise, so that answers go wrong now and then."""
    generator = torch.Generator().manual_seed(0)
    patterns = torch.randint(0, 60, (20, 1, 4, 4), generator=generator)
    return ImageClasses((patterns + torch.randint(0, 190, (20, 20, 4, 4), generator=generator)).to(torch.uint8))


def test_an_inductive_learner_scores_the_same_alone_and_together() -> None:
    row = measure(Nearest(), {"unused": torch.zeros(1)}, noisy_classes(), plan(), rotated=False)
    assert row.accuracy == row.accuracy_transductive
    assert row.accuracy is not None
    assert 90 < row.accuracy <= 100


def test_a_learner_that_peeks_at_the_other_queries_is_found_out() -> None:
    params = {"unused": torch.zeros(1)}
    row = measure(Nearest(is_transductive=True), params, Shifted(noisy_classes()), plan(), rotated=False)
    assert row.accuracy is not None
    assert row.accuracy_transductive is not None
    assert row.accuracy == pytest.approx(20, abs=0.1)  # a query centred on itself is no information
    assert row.accuracy_transductive > 80


def test_the_interval_is_that_of_the_mean_over_episodes() -> None:
    @dataclass(frozen=True)
    class Guess(Nearest):
        def predict(self, params: Params, state: State, queries: Tensor) -> Tensor:
            return torch.nn.functional.one_hot(torch.zeros(queries.shape[:2], dtype=torch.int64), 5).float()

    guess = measure(Guess(), {"unused": torch.zeros(1)}, noisy_classes(), plan(), rotated=False)
    assert (guess.accuracy, guess.ci95) == (20.0, 0.0)
    scores: list[float] = []
    for seed in range(60):  # the spread of the mean over repetitions is what the interval promises
        row = measure(Nearest(), {"unused": torch.zeros(1)}, hard_classes(), plan(seed=seed, episodes=50), rotated=False)
        assert row.accuracy is not None
        scores.append(row.accuracy)
    assert row.ci95 == pytest.approx(1.96 * torch.tensor(scores).std().item(), rel=0.3)


def test_the_batch_changes_no_figure_and_the_seed_does() -> None:
    params = {"unused": torch.zeros(1)}
    rows = [measure(Nearest(), params, hard_classes(), plan(batch=batch), rotated=False) for batch in (7, 200)]
    assert rows[0].accuracy == rows[1].accuracy
    other = measure(Nearest(), params, hard_classes(), plan(seed=1), rotated=False)
    assert other.accuracy != rows[0].accuracy


def test_regression_is_judged_by_its_squared_error() -> None:
    learner = build_learner({"method": "maml", "kind": "regression", "input_shape": [1], "backbone": {"kind": "mlp", "hidden": [8]}})
    params = {name: torch.zeros_like(tensor) for name, tensor in learner.init(torch.Generator()).items()}
    asked = EvaluationPlan(k_shot=10, episodes=2000, n_query=20, steps=0, batch=500)
    row = measure(learner, params, Sinusoid(), asked, rotated=False)
    amplitude_square = (5**3 - 0.1**3) / 3 / 4.9
    assert row.mse == pytest.approx(amplitude_square / 2, rel=0.1)  # answers of zero miss by the power of the wave
    assert row.mse == pytest.approx(row.mse_transductive)
    assert "accuracy" not in row.to_json()
    assert row.steps == 0


@pytest.mark.parametrize("changes", [{"episodes": 1}, {"batch": 0}, {"n_way": 21}, {"k_shot": 20}])
def test_what_cannot_be_measured_is_refused(changes: dict[str, int]) -> None:
    with pytest.raises(InvalidOptions, match="must be"):
        measure(Nearest(), {"unused": torch.zeros(1)}, noisy_classes(), plan(**changes), rotated=False)


def test_progress_is_told_after_every_batch() -> None:
    told: list[int] = []
    measure(Nearest(), {"unused": torch.zeros(1)}, noisy_classes(), plan(episodes=50, batch=20), rotated=False, report=told.append)
    assert told == [20, 40, 50]


def test_an_inner_loop_that_diverges_is_counted_and_gives_no_mean() -> None:
    learner = build_learner(
        {"method": "maml", "kind": "regression", "input_shape": [1], "inner_lr": 1e6, "backbone": {"kind": "mlp", "hidden": [8]}}
    )
    params = learner.init(torch.Generator().manual_seed(0))
    row = measure(learner, params, Sinusoid(), EvaluationPlan(k_shot=5, episodes=4, n_query=3, steps=20), rotated=False)
    assert row.diverged_episodes == 4
    assert row.to_json().keys().isdisjoint({"mse", "mse_transductive", "ci95"})
