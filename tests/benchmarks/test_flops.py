from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.flops import count_anil, count_backward, count_forward, count_layers, count_maml, count_ridge
from benchmarks.plain_conv4 import make_plain
from models.backbones import Conv4

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
