"""How many bits kernels get: few where they moved little, and the same in any company."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models.kernel_bits import FEW, MANY, MOST_ERROR, choose_bits, weigh_channels
from models.packed_weights import make_base, pack, unpack
from models.packed_weights import measure as measure_channels


def make_bases(seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [make_base(torch.randn(shape, generator=generator)) for shape in ((16, 8, 3, 3), (64, 32))]


def measure_error(param: torch.Tensor, weight: torch.Tensor) -> float:
    """What eight bits really do to it, beside the parameter."""
    back = torch.empty(weight.shape)
    unpack(pack(weight, make_base(param), FEW).numpy(), make_base(param), FEW, back)
    return float((back - weight).norm() / param.norm())


@given(st.integers(0, 99), st.floats(-6, 0))
def test_the_error_is_known_before_anything_is_packed(seed: int, magnitude: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    param = torch.randn(32, 16, 3, 3, generator=generator)
    weight = (param + 10**magnitude * torch.randn(param.shape, generator=generator)).unsqueeze(0)
    largest, weighed = measure_channels(weight, make_base(param)).numpy(), weigh_channels([make_base(param)])
    expected = float(np.sqrt((largest.astype(np.float64) ** 2 * weighed).sum()))
    assert measure_error(param, weight) == pytest.approx(expected, rel=0.1, abs=1e-7)
    assert choose_bits(largest[None], weighed) == [FEW if expected <= MOST_ERROR else MANY]


def test_every_weight_of_a_state_counts() -> None:
    weighed = weigh_channels(make_bases())
    assert weighed.shape == (16 + 64,)
    still, first, last = np.zeros((3, 80), dtype=np.float32)
    first[0], last[-1] = MOST_ERROR / np.sqrt(weighed[0]) * 1.01, MOST_ERROR / np.sqrt(weighed[-1]) * 1.01
    assert choose_bits(np.stack([still, first, last]), weighed) == [FEW, MANY, MANY]
    assert choose_bits(np.stack([first, last]) * np.float32(0.9), weighed) == [FEW, FEW]


@given(st.integers(0, 999))
def test_a_state_gets_the_same_bits_alone_and_in_any_company(seed: int) -> None:
    random, weighed = np.random.default_rng(seed), weigh_channels(make_bases())
    unit = MOST_ERROR / np.sqrt(weighed * len(weighed))
    largest = (unit * random.uniform(0.9, 1.1, (7, 1)) * random.uniform(0.9, 1.1, (7, 80))).astype(np.float32)
    together = choose_bits(largest, weighed)
    assert together == [choose_bits(row[None].copy(), weighed)[0] for row in largest]


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_what_is_not_finite_gets_more(wrong: float) -> None:
    largest = np.zeros((1, 80), dtype=np.float32)
    largest[0, 7] = wrong
    assert choose_bits(largest, weigh_channels(make_bases())) == [MANY]


def test_meta_parameters_of_zeros_get_more_and_states_without_kernels_fewer() -> None:
    weighed = weigh_channels([torch.zeros(4, 2)])
    assert choose_bits(np.ones((1, 2), dtype=np.float32), weighed) == [MANY]
    assert choose_bits(np.zeros((1, 2), dtype=np.float32), weighed) == [FEW]
    assert choose_bits(np.zeros((3, 0), dtype=np.float32), weigh_channels([])) == [FEW] * 3
