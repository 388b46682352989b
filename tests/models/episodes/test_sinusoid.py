from __future__ import annotations

import pytest
import torch

from models.episodes import EpisodeShape, Sinusoid
from models.errors import InvalidOptions

SHAPE = EpisodeShape(n_way=0, k_shot=10, n_query=30, tasks=500)


def test_support_and_queries_of_a_task_lie_on_one_sine_curve() -> None:
    batch = Sinusoid().draw(SHAPE, torch.Generator().manual_seed(0))
    x, y = batch.support.inputs.double(), batch.support.targets.double()
    waves = torch.cat([x.sin(), x.cos()], dim=-1)  # a sin(x - p) = a cos(p) sin(x) - a sin(p) cos(x)
    fitted = torch.linalg.lstsq(waves, y).solution
    queries = batch.query_inputs.double()
    predicted = torch.cat([queries.sin(), queries.cos()], dim=-1) @ fitted
    torch.testing.assert_close(predicted, batch.query_targets.double(), atol=1e-3, rtol=0)
    amplitude = fitted.norm(dim=1)
    assert 0.1 <= amplitude.min() < 0.3 < 4.7 < amplitude.max() <= 5.001
    assert (fitted[:, 1] < 1e-4).all()  # phases in [0, pi]


def test_inputs_span_the_published_range() -> None:
    x = Sinusoid().draw(SHAPE, torch.Generator().manual_seed(0)).query_inputs
    assert -5 <= x.min() < -4.9
    assert 4.9 < x.max() <= 5


def test_an_episode_without_examples_is_refused() -> None:
    with pytest.raises(InvalidOptions, match="k_shot, n_query and tasks must be at least 1"):
        Sinusoid().draw(EpisodeShape(0, 0, 1, 1), torch.Generator())
