from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.adapt import OPTIONS
from benchmarks.few_shot import Problem, make_problem
from benchmarks.flops import (
    count_anil,
    count_backward,
    count_forward,
    count_head,
    count_layers,
    count_maml,
    count_meta_gradient,
    count_ridge,
)
from benchmarks.plain_conv4 import make_plain
from benchmarks.train import our_gradient
from benchmarks.train_peers import plain_loop
from models.backbones import Conv4
from models.episodes import EpisodeShape

STRIDED = Conv4((1, 28, 28))
POOLED = Conv4((1, 28, 28), downsample="pool")


def test_the_layers_of_a_strided_conv4_by_hand() -> None:
    """2 x 9 taps x channels in x channels out x places: 14x14, 7x7, 4x4 and 2x2 of them."""
    assert count_layers(STRIDED) == [18 * 1 * 64 * 196, 18 * 64 * 64 * 49, 18 * 64 * 64 * 16, 18 * 64 * 64 * 4]


def test_the_layers_of_a_pooled_conv4_by_hand() -> None:
    """Pooling comes after the convolution, so it has 28x28, 14x14, 7x7 and 3x3 places."""
    assert count_layers(POOLED) == [18 * 1 * 64 * 784, 18 * 64 * 64 * 196, 18 * 64 * 64 * 49, 18 * 64 * 64 * 9]


def test_maml_by_hand() -> None:
    """One step from a head of zeros: features, logits, and the gradient of the head. The second: a way back, and no new features."""
    body, head = 5 * sum(count_layers(STRIDED)), 2 * 5 * 256 * 5
    back = 2 * body - 5 * 18 * 64 * 196
    assert count_maml(STRIDED, 5, 5, 1) == body + 2 * head
    assert count_maml(STRIDED, 5, 5, 2) == body + back + 5 * head
    assert count_maml(STRIDED, 5, 5, 5) == 4 * body + 4 * back + 14 * head
    assert count_maml(STRIDED, 5, 5, 5, as_written=True) == 5 * body + 5 * back + 15 * head


def test_methods_without_a_way_back_need_the_features_once() -> None:
    features, head = count_forward(STRIDED, 5), 2 * 5 * 256 * 5
    assert count_anil(STRIDED, 5, 5, 5) == features + 10 * head
    assert count_ridge(STRIDED, 5, 5) == features + 2 * 25 * 256 + 41 + head


@pytest.mark.parametrize("backbone", [STRIDED, POOLED])
def test_one_step_of_the_plain_network_counts_what_torch_counts(backbone: Conv4) -> None:
    model = make_plain(backbone, backbone.init(torch.Generator().manual_seed(0)), 5)
    with FlopCounterMode(display=False) as counter:
        torch.autograd.backward(F.cross_entropy(model(torch.rand(5, 1, 28, 28)), torch.arange(5)))
    head = 2 * 5 * backbone.feature_dim * 5
    assert counter.get_total_flops() == count_forward(backbone, 5) + count_backward(backbone, 5) + 3 * head
    assert count_maml(backbone, 5, 5, 1, as_written=True) == counter.get_total_flops()


def test_a_meta_gradient_by_hand() -> None:
    """Five steps over five images: four times three products of each layer, and six on the way back. Ten queries: three."""
    image, first = sum(count_layers(STRIDED)), 18 * 1 * 64 * 196
    body = 4 * 5 * (9 * image - 5 * first) + 10 * (3 * image - first)
    loop, back, judged = 14, 1 + 4 * 6, 2 * 3
    assert count_meta_gradient(STRIDED, 5, 10, 5, 5) == body + (loop + back + judged) * 2 * 5 * 256 * 5


def count_excess(backbone: Conv4, n: int) -> int:
    """What torch does in vain where it differentiates a gradient of n images: a gradient in the images; and kernels' gradients by a
    convolution with holes, which at stride 2 gives 4x4 where the maps' size is even, and is cut to 3x3."""
    layers = count_layers(backbone)
    even = [flops for block, flops in enumerate(layers[1:], start=1) if backbone.map_size(block)[0] % 2 == 0]
    return n * (layers[0] + (7 * sum(even) // 9 if backbone.downsample == "stride" else 0))


@pytest.fixture(params=["stride", "pool"])
def problem(request: pytest.FixtureRequest) -> Problem:
    """One task, three steps, two queries a class."""
    return make_problem("maml", request.param, EpisodeShape(5, 1, 2, 1), 3, **OPTIONS["maml"] | {"inner_steps": 3})


def test_the_plain_loop_takes_its_meta_gradient_as_written(problem: Problem) -> None:
    differentiate = plain_loop(problem)
    with FlopCounterMode(display=False) as counter:
        differentiate()
    written = count_meta_gradient(problem.backbone, 5, 10, 5, 3, as_written=True)
    assert counter.get_total_flops() == written + 3 * count_excess(problem.backbone, 5)


def test_a_meta_gradient_can_be_taken_with_what_is_needed(problem: Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ours through torch, where the first two steps share their features. Beside what torch does in vain there are two products of the
    first head: how its errors change, and what zeros make of that."""
    monkeypatch.setattr(Conv4, "find_native", lambda self, inputs: None)
    differentiate = our_gradient(problem)
    with FlopCounterMode(display=False) as counter:
        differentiate()
    backbone, head = problem.backbone, count_head(problem.backbone, 5, 5)
    needed = count_meta_gradient(backbone, 5, 10, 5, 3)
    assert counter.get_total_flops() == needed + 2 * count_excess(backbone, 5) + 2 * head
