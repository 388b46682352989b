from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models.packing import Bits, Shape, count_packed_bytes, pack, unpack

SHAPES = st.lists(st.tuples(st.integers(1, 5), st.integers(1, 9)), min_size=1, max_size=4)
BITS: st.SearchStrategy[Bits] = st.sampled_from([12, 20])


def draw_values(blocks: list[Shape], seed: int) -> torch.Tensor:
    """Rows of very different sizes."""
    generator = torch.Generator().manual_seed(seed)
    rows = [torch.randn(columns, generator=generator) * 10.0 ** (row % 7 - 3) for height, columns in blocks for row in range(height)]
    return torch.cat(rows)


@given(SHAPES, BITS, st.integers(0, 99))
def test_a_number_moves_by_less_than_a_share_of_the_largest_in_its_row(blocks: list[Shape], bits: Bits, seed: int) -> None:
    values = draw_values(blocks, seed)
    packed = pack(values.clone(), blocks, bits)
    assert len(packed) == count_packed_bytes(blocks, bits)
    moved, at = (unpack(packed, blocks, bits) - values).abs(), 0
    for rows, columns in blocks:
        size = rows * columns
        largest = values[at : at + size].view(rows, columns).abs().amax(1, keepdim=True)
        # Half a step of the grid, and what float32 itself rounds when a number and its step are multiplied.
        assert (moved[at : at + size].view(rows, columns) <= largest * (2.0**-bits * 1.001 + 2.0**-23)).all()
        at += size


@given(SHAPES, BITS)
def test_zeros_stay_zeros(blocks: list[Shape], bits: Bits) -> None:
    values = torch.zeros(sum(rows * columns for rows, columns in blocks))
    assert torch.equal(unpack(pack(values.clone(), blocks, bits), blocks, bits), values)


@pytest.mark.parametrize("bits", [12, 20])
def test_what_is_not_finite_does_not_become_so(bits: Bits) -> None:
    for wrong in (torch.nan, torch.inf, -torch.inf):
        assert not unpack(pack(torch.tensor([1.0, wrong, 2.0, 3.0]), [(2, 2)], bits), [(2, 2)], bits)[:2].isfinite().any()


def test_a_row_is_packed_alike_beside_any_others() -> None:
    alone = unpack(pack(draw_values([(1, 7)], 1), [(1, 7)], 20), [(1, 7)], 20)
    rows = torch.cat([draw_values([(2, 7)], 2), draw_values([(1, 7)], 1)])
    assert torch.equal(unpack(pack(rows, [(3, 7)], 20), [(3, 7)], 20)[14:], alone)
