"""How many bits kernels get: few where they moved little, and the same in any company."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models.kernel_bits import FEW, MANY, MOST_ERROR, choose_bits, foresee_errors, weigh_channels
from models.packed_weights import make_base, measure, pack, read_lines, unpack


def make_bases(seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [make_base(torch.randn(shape, generator=generator)) for shape in ((16, 8, 3, 3), (64, 32))]


def measure_error(param: torch.Tensor, weight: torch.Tensor) -> float:
    """What eight bits really do to it, beside the parameter."""
    base, back = make_base(param), torch.empty(weight.shape)
    lines = read_lines(weight, base)
    unpack(pack(lines, base, measure(lines, base), FEW).numpy(), base, FEW, back)
    return float((back - weight).norm() / param.norm())


@given(st.integers(0, 99), st.floats(-6, 0))
def test_the_error_is_known_before_anything_is_packed(seed: int, magnitude: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    param = torch.randn(32, 16, 3, 3, generator=generator)
    weight = (param + 10**magnitude * torch.randn(param.shape, generator=generator)).unsqueeze(0)
    base = make_base(param)
    [foreseen] = foresee_errors(measure(read_lines(weight, base), base).unsqueeze(0).numpy(), weigh_channels([base]))
    assert measure_error(param, weight) == pytest.approx(foreseen, rel=0.1, abs=1e-7)


def test_every_weight_of_a_state_counts() -> None:
    weighed = weigh_channels(make_bases())
    assert weighed.shape == (16 + 64,)
    still, first, last = np.zeros((3, 80), dtype=np.float32)
    first[0], last[-1] = MOST_ERROR / np.sqrt(weighed[0]) * 1.01, MOST_ERROR / np.sqrt(weighed[-1]) * 1.01
    assert choose_bits(foresee_errors(np.stack([still, first, last]), weighed)) == [FEW, MANY, MANY]
    assert choose_bits(foresee_errors(np.stack([first, last]) * np.float32(0.9), weighed)) == [FEW, FEW]


@given(st.integers(0, 999), st.integers(1, 9))
def test_what_is_foreseen_of_a_state_is_the_same_to_the_last_bit_alone_and_in_any_company(seed: int, n_states: int) -> None:
    largest = np.random.default_rng(seed).uniform(0, 1, (n_states, 80)).astype(np.float32)
    weighed = weigh_channels(make_bases())
    together = foresee_errors(largest, weighed).tolist()
    assert together == [foresee_errors(row[None].copy(), weighed).item() for row in largest]


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_what_is_not_finite_gets_more(wrong: float) -> None:
    largest = np.zeros((1, 80), dtype=np.float32)
    largest[0, 7] = wrong
    assert choose_bits(foresee_errors(largest, weigh_channels(make_bases()))) == [MANY]


def test_meta_parameters_of_zeros_get_more_and_states_without_kernels_fewer() -> None:
    weighed = weigh_channels([torch.zeros(4, 2)])
    assert choose_bits(foresee_errors(np.ones((1, 2), dtype=np.float32), weighed)) == [MANY]
    assert choose_bits(foresee_errors(np.zeros((1, 2), dtype=np.float32), weighed)) == [FEW]
    assert choose_bits(foresee_errors(np.zeros((3, 0), dtype=np.float32), weigh_channels([]))) == [FEW] * 3
