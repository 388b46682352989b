from __future__ import annotations

from unittest.mock import patch

import numpy as np
import pytest
import scipy.linalg
import torch

from models import task_embedding
from models.backbones import Mlp
from models.methods import build_learner
from models.methods.protonet import ProtoNet
from models.native.library import find_any_library
from models.support import Support, make_support, stack_supports
from models.task_embedding import describe_features, embed_tasks

D = 8
PROTONET = ProtoNet(Mlp((6,), (16, D)))
PARAMS = {name: tensor.double() for name, tensor in PROTONET.init(torch.Generator().manual_seed(0)).items()}


def make_task(seed: int, n_way: int, shots: int) -> Support:
    inputs = torch.randn(n_way * shots, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return make_support(inputs, torch.arange(n_way).repeat(shots), n_way)


def make_line(seed: int, points: int, slope: float) -> Support:
    inputs = torch.randn(points, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return make_support(inputs, slope * inputs[:, :1])


def embed(support: Support) -> torch.Tensor:
    embedding = embed_tasks(PROTONET, PARAMS, support)
    assert embedding is not None
    return embedding


def test_it_is_mean_and_standard_deviation_of_the_features_over_the_root_of_their_width() -> None:
    task = make_task(1, 3, 2)
    features = PROTONET.embed(PARAMS, task.inputs)[0].numpy()
    expected = np.concatenate([features.mean(0), features.std(0)]) / np.sqrt(D)
    np.testing.assert_allclose(embed(task)[0].numpy(), expected, rtol=1e-12)


@pytest.mark.skipif(find_any_library(torch.float32) is None, reason="SKIPPED-COMPILER: there is one path only")
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-14)])
@pytest.mark.parametrize("width", [1, 7, 64, 256])
def test_c_describes_ragged_tasks_as_torch_does(dtype: torch.dtype, tolerance: float, width: int) -> None:
    support = stack_supports([make_task(1, 2, 1), make_task(2, 5, 3), make_task(3, 1, 1)])
    features = 3 + torch.randn(*support.mask.shape, width, generator=torch.Generator().manual_seed(width), dtype=dtype)
    features[~support.mask] = torch.nan
    found = describe_features(features, support)
    assert found.shape == (3, 2 * width)
    with patch.object(task_embedding, "find_any_library", lambda dtype: None):
        torch.testing.assert_close(found, describe_features(features, support), rtol=tolerance, atol=tolerance)
    assert not found[2, width:].any()  # one example has no spread
    features[1, 0, 0] = torch.nan
    assert describe_features(features, support).isfinite().all(1).tolist() == [True, False, True]


def test_distances_are_wassersteins_between_the_normals_of_the_two_tasks() -> None:
    first, second = (embed(make_task(seed, 3, 4))[0].numpy() * np.sqrt(D) for seed in (1, 2))
    means, covariances = (first[:D], second[:D]), (np.diag(first[D:] ** 2), np.diag(second[D:] ** 2))
    root = scipy.linalg.sqrtm(covariances[0])
    cross = scipy.linalg.sqrtm(root @ covariances[1] @ root)
    squared = np.square(means[0] - means[1]).sum() + np.trace(covariances[0] + covariances[1] - 2 * np.real(cross))
    assert np.linalg.norm(first - second) == pytest.approx(np.sqrt(squared), rel=1e-9)


def test_a_task_is_embedded_beside_others_as_it_is_alone() -> None:
    tasks = [make_task(seed, n_way, shots) for seed, n_way, shots in ((1, 2, 1), (2, 5, 3), (3, 3, 7))]
    together = embed(stack_supports(tasks))
    for lane, task in enumerate(tasks):
        torch.testing.assert_close(together[lane], embed(task)[0], rtol=1e-12, atol=1e-12)


def test_neither_the_order_of_the_examples_nor_the_names_of_the_classes_matter() -> None:
    task = make_task(1, 3, 2)
    order = torch.tensor([4, 2, 0, 5, 1, 3])
    shuffled = make_support(task.inputs[0, order], (task.targets[0, order] + 1) % 3, 3)
    torch.testing.assert_close(embed(shuffled), embed(task), rtol=1e-12, atol=1e-12)


def test_the_labels_of_a_regression_are_its_third_part() -> None:
    up, down = make_line(1, 9, 1.0), make_line(1, 9, -1.0)
    rising, falling = (describe_features(PROTONET.embed(PARAMS, line.inputs), line)[0] for line in (up, down))
    assert rising.shape == (3 * D,)
    torch.testing.assert_close(rising[: 2 * D], falling[: 2 * D])
    features = PROTONET.embed(PARAMS, up.inputs)[0]
    torch.testing.assert_close(rising[2 * D :], (features * up.targets[0]).mean(0) / D**0.5)
    torch.testing.assert_close(falling[2 * D :], -rising[2 * D :])
    padded = stack_supports([up, make_line(2, 20, 3.0)])
    torch.testing.assert_close(describe_features(PROTONET.embed(PARAMS, padded.inputs), padded)[0], rising)


class Blind:
    """A learner that embeds nothing."""

    kind = "classification"


def test_a_learner_without_features_gives_none() -> None:
    assert embed_tasks(Blind(), PARAMS, make_task(1, 2, 1)) is None  # type: ignore[arg-type]


def test_maml_embeds_with_its_meta_parameters() -> None:
    maml = build_learner({"method": "maml", "kind": "classification", "input_shape": [6], "backbone": {"kind": "mlp", "hidden": [16, D]}})
    params = {f"body.{name}": tensor for name, tensor in PARAMS.items()}
    embedding = embed_tasks(maml, params, make_task(1, 3, 2))
    assert embedding is not None
    torch.testing.assert_close(embedding, embed(make_task(1, 3, 2)))
